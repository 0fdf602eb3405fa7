// What forward and backward pass of a stage share: its sizes, what is multiplied, packed weights, sums of products.
//
// Filters are small and many, so products are made for several filters and several places of the maps at a time: each
// number that is fetched serves several multiplications.

#pragma once
#include "lanes.h"
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

constexpr int NOBODY = 255;  // the winner of a window where ReLU is closed

// What is multiplied with weights, in every lane: a number, or two of them in bf16, whose products are both added up.
// Seen through these, memory may have been written as floats.
typedef int32_t Factors __attribute__((vector_size(4 * LANES), may_alias));

struct Single {
    static constexpr int TOGETHER = 1;
    typedef float Weight;
    static INLINE Weight weight(float first, float) { return first; }
    static INLINE Factors half(Lanes numbers, int) { return (Factors)numbers; }
    static INLINE void add(Lanes &sum, Weight weight, Factors by) { sum += weight * (Lanes)by; }
    static INLINE void add(Lanes &sum, Factors one, Factors by) { sum += (Lanes)one * (Lanes)by; }
};

#if defined(__AVX512BF16__)
struct Double {
    static constexpr int TOGETHER = 2;
    typedef int32_t Weight;
    static INLINE Factors half(Lanes numbers, int second) {
        typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));
        const Factors bits = __builtin_convertvector((Halves)_mm512_cvtneps_pbh((__m512)numbers), Factors);
        return second ? bits << 16 : bits;
    }
    static INLINE Weight weight(float first, float second) {
        return (half(Lanes{} + first, 0) | half(Lanes{} + second, 1))[0];
    }
    static INLINE void add(Lanes &sum, Factors one, Factors by) {
        sum = (Lanes)_mm512_dpbf16_ps((__m512)sum, (__m512bh)by, (__m512bh)one);
    }
    static INLINE void add(Lanes &sum, Weight weight, Factors by) { add(sum, Factors{} + weight, by); }
};
static INLINE Factors firsts(Factors a, Factors b) { return (a & 0xffff) | (b << 16); }
static INLINE Factors seconds(Factors a, Factors b) { return (a >> 16 & 0xffff) | (b & ~0xffff); }
#endif

struct Stage {
    int64_t n, channels, height, width, filters, side, pool, rows, columns;  // rows, columns: of the output
    int64_t high() const { return height - side + 1; }                       // of the convolution
    int64_t wide() const { return width - side + 1; }
    int64_t blocks() const { return pieces(n, LANES); }
    int64_t images(int64_t block) const { return least(LANES, n - block * LANES); }
    int64_t taps() const { return side * side; }
    int64_t weights() const { return filters * channels * taps(); }
    int64_t plane() const { return height * width; }
    int64_t in() const { return channels * plane(); }
    int64_t windows() const { return rows * columns; }
    int64_t out() const { return filters * windows(); }
};

// How the images' numbers are put together as factors: two channels, or where that would leave more of them without
// another, as with one channel, a number and the one below it.
struct Arrangement {
    bool below;
    int64_t maps, tap_rows, step;  // step: rows from those of one row of taps to those of the next
    Arrangement(const Stage &s, int together)
        : below(together == 2 && s.channels % 2 && s.channels < s.side + s.side % 2),
          maps(below ? s.channels : pieces(s.channels, together)), tap_rows(below ? pieces(s.side, 2) : s.side),
          step(below ? 2 : 1) {}
};

static thread_local Scratch own, packed_weights;

// Groups as equal as they can be, of `largest` at most.
static INLINE int64_t group_size(int64_t count, int64_t largest) { return pieces(count, pieces(count, largest)); }

// Calls work(size, first) for all groups of MOST at most; the type of `size` knows it when it is compiled.
template <int MOST, class Work> void in_groups(int64_t count, Work work) {
    const int64_t size = group_size(count, MOST);
    for (int64_t first = 0; first < count; first += size) switch (least(size, count - first)) {
#define CASE(SIZE) case SIZE: if constexpr (SIZE <= MOST) work(std::integral_constant<int, SIZE>(), first); break;
            CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#undef CASE
        }
}

// The weights of `outer` filters or channels in groups of `size`: [group][map][i][j][outer of the group].
template <class Weight, class Value>
void pack(int64_t outer, int64_t maps, int64_t tap_rows, int64_t side, int64_t size, int64_t threads, Weight *packed,
          Value value) {
#pragma omp parallel for num_threads(threads)
    for (int64_t first = 0; first < outer; first += size) {
        Weight *to = packed + first * maps * tap_rows * side;
        for (int64_t map = 0; map < maps; map++)
            for (int64_t i = 0; i < tap_rows; i++)
                for (int64_t j = 0; j < side; j++)
                    for (int64_t o = first; o < least(first + size, outer); o++) *to++ = value(o, map, i, j);
    }
}

struct Taps {
    int64_t rows, side, i0, i1, j0, j1;  // a rectangle of so many
    int64_t single = -1;                 // the row of taps that has nothing to do with the second numbers: not even
                                         // times 0, which would be no number where they are none
};

// sums[o][p] += weights[map][i][j][o] * maps[map][places[p] + SIGN * (i, j)] for all maps and taps
template <class P, int SIGN, int COUNT, int AT_ONCE>
static INLINE void convolve(Lanes (&sums)[COUNT][AT_ONCE], const Factors *const (&places)[AT_ONCE],
                     const typename P::Weight *weights, int64_t maps, int64_t plane, int64_t row, const Taps &taps) {
    for (int64_t map = 0; map < maps; map++)
        for (int64_t i = taps.i0; i < taps.i1; i++) {
            const typename P::Weight *w = weights + ((map * taps.rows + i) * taps.side + taps.j0) * COUNT;
            int64_t at = map * plane + SIGN * (i * row + taps.j0);
            const Factors mask = Factors{} + (i == taps.single ? 0xffff : -1);
            for (int64_t j = taps.j0; j < taps.j1; j++, w += COUNT, at += SIGN) {
                Factors seen[AT_ONCE];
                UNROLL for (int p = 0; p < AT_ONCE; p++)
                    seen[p] = P::TOGETHER == 2 && SIGN == 1 ? places[p][at] & mask : places[p][at];
                UNROLL for (int o = 0; o < COUNT; o++)
                    UNROLL for (int p = 0; p < AT_ONCE; p++) P::add(sums[o][p], w[o], seen[p]);
            }
        }
}
