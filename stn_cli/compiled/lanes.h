// Vectors of floats, one image in each lane, and how images get into the lanes and out again.
//
// Whatever the network's maps are, sixteen images (eight, four: as wide as the processor's vectors are) go through a
// kernel together, a number of each in one vector: so vectors are full however small filters and maps are, and what is
// done to one image, maxima and masks too, is done to all without a shuffle. Blocks of so many images are independent:
// they are what threads share out, and their results are added up in their order, so that no bit depends on how many
// threads there are.

#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

#if defined(__AVX512F__)
constexpr int LANES = 16, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int LANES = 8, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int LANES = 4, REGISTERS = 32;
#else
constexpr int LANES = 4, REGISTERS = 16;
#endif
typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t Numbers __attribute__((vector_size(4 * LANES)));
typedef uint8_t Bytes __attribute__((vector_size(LANES)));

#define INLINE inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

static INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static INLINE int64_t pieces(int64_t count, int64_t size) { return (count + size - 1) / size; }

static INLINE Lanes load(const float *from) {
    Lanes vector;
    memcpy(&vector, from, sizeof vector);
    return vector;
}
static INLINE void store(Lanes vector, float *to) { memcpy(to, &vector, sizeof vector); }

// Memory that grows and is kept: fresh pages cost more than what is done in them.
class Scratch {
    void *memory = nullptr;
    size_t size = 0;

  public:
    ~Scratch() { free(memory); }
    template <class T> T *take(int64_t count) {
        const size_t bytes = (count * sizeof(T) + 127) / 64 * 64;
        if (bytes > size) {
            free(memory);
            memory = aligned_alloc(64, bytes);
            if (!memory) abort();
            size = bytes;
        }
        return (T *)memory;
    }
};

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE __builtin_shufflevector
#else
#define SHUFFLE(A, B, ...) __builtin_shuffle(A, B, Numbers{__VA_ARGS__})
#endif

// Element (row, lane) goes to (lane, row), one bit of the two numbers after another.
template <int BIT, size_t... LANE> static INLINE void swap_bit(Lanes (&square)[LANES], std::index_sequence<LANE...>) {
    UNROLL for (int row = 0; row < LANES; row++) {
        if (row & BIT) continue;
        const Lanes a = square[row], b = square[row | BIT];
        square[row] = SHUFFLE(a, b, (LANE & BIT ? LANES + LANE - BIT : LANE)...);
        square[row | BIT] = SHUFFLE(a, b, (LANE & BIT ? LANES + LANE : LANE + BIT)...);
    }
}
static INLINE void transpose(Lanes (&square)[LANES]) {
    constexpr auto lanes = std::make_index_sequence<LANES>();
    if constexpr (LANES > 8) swap_bit<8>(square, lanes);
    if constexpr (LANES > 4) swap_bit<4>(square, lanes);
    swap_bit<2>(square, lanes), swap_bit<1>(square, lanes);
}

// Lane l of the result: the sum of all lanes of vectors[l].
template <int BIT, size_t... LANE> static INLINE void fold(Lanes (&vectors)[LANES], std::index_sequence<LANE...>) {
    UNROLL for (int row = 0; row < BIT; row++) {
        const Lanes a = vectors[row], b = vectors[row + BIT];
        vectors[row] = SHUFFLE(a, b, (LANE & BIT ? LANES + LANE - BIT : LANE)...) +
                       SHUFFLE(a, b, (LANE & BIT ? LANES + LANE : LANE + BIT)...);
    }
}
static INLINE Lanes sums_of(const Lanes *from) {
    constexpr auto lanes = std::make_index_sequence<LANES>();
    Lanes vectors[LANES];
    UNROLL for (int row = 0; row < LANES; row++) vectors[row] = from[row];
    if constexpr (LANES > 8) fold<8>(vectors, lanes);
    if constexpr (LANES > 4) fold<4>(vectors, lanes);
    fold<2>(vectors, lanes), fold<1>(vectors, lanes);
    return vectors[0];
}

// `here` images (LANES at most) of `count` numbers, one after the other, into lanes: block[number][image]. Lanes
// without an image are 0.
static void into_lanes(const float *images, int64_t here, int64_t count, Lanes *block) {
    int64_t k = 0;
    if (here == LANES)
        for (; k + LANES <= count; k += LANES) {
            Lanes square[LANES];
            UNROLL for (int l = 0; l < LANES; l++) square[l] = load(images + l * count + k);
            transpose(square);
            UNROLL for (int l = 0; l < LANES; l++) block[k + l] = square[l];
        }
    for (; k < count; k++) {
        block[k] = Lanes{};
        for (int64_t l = 0; l < here; l++) block[k][l] = images[l * count + k];
    }
}
static void out_of_lanes(const Lanes *block, int64_t here, int64_t count, float *images) {
    int64_t k = 0;
    if (here == LANES)
        for (; k + LANES <= count; k += LANES) {
            Lanes square[LANES];
            UNROLL for (int l = 0; l < LANES; l++) square[l] = block[k + l];
            transpose(square);
            UNROLL for (int l = 0; l < LANES; l++) store(square[l], images + l * count + k);
        }
    for (; k < count; k++)
        for (int64_t l = 0; l < here; l++) images[l * count + k] = block[k][l];
}
