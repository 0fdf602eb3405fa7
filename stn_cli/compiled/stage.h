// What forward and backward pass of a stage share: its sizes, packed weights, sums of products.
//
// Filters are small and many, so products are made for several filters and several places of the maps at a time: each
// number that is fetched serves several multiplications.

#pragma once
#include "lanes.h"

constexpr int NOBODY = 255;  // the winner of a window where ReLU is closed

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

static thread_local Scratch own, packed_weights;

// Groups as equal as they can be, of MOST at most.
INLINE int64_t group_size(int64_t count, int64_t largest) { return pieces(count, pieces(count, largest)); }

// Calls work.template operator()<SIZE>(first) for all groups; their sizes are known when it is compiled.
template <int MOST, class Work> void in_groups(int64_t count, Work work) {
    const int64_t size = group_size(count, MOST);
    for (int64_t first = 0; first < count; first += size) switch (least(size, count - first)) {
#define CASE(SIZE) case SIZE: if constexpr (SIZE <= MOST) work(std::integral_constant<int, SIZE>(), first); break;
            CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#undef CASE
        }
}

// weights[outer][inner][tap] with any strides -> [group][inner][tap][outer of the group]
static void pack(const float *weights, int64_t outer, int64_t inner, int64_t taps, int64_t outer_stride, int64_t inner_stride,
          int64_t size, float *to) {
    for (int64_t first = 0; first < outer; first += size)
        for (int64_t k = 0; k < inner; k++)
            for (int64_t tap = 0; tap < taps; tap++)
                for (int64_t f = first; f < least(first + size, outer); f++)
                    *to++ = weights[f * outer_stride + k * inner_stride + tap];
}

// sums[f][p] += weights[map][i][j][f] * maps[map][places[p] + SIGN * (i, j)] for all maps and the taps of a rectangle
template <int SIGN, int COUNT, int AT_ONCE>
INLINE void convolve(Lanes (&sums)[COUNT][AT_ONCE], const Lanes *const (&places)[AT_ONCE], const float *weights,
                     int64_t maps, int64_t plane, int64_t row, int64_t side, int64_t i0, int64_t i1, int64_t j0,
                     int64_t j1) {
    for (int64_t map = 0; map < maps; map++)
        for (int64_t i = i0; i < i1; i++) {
            const float *w = weights + ((map * side + i) * side + j0) * COUNT;
            int64_t at = map * plane + SIGN * (i * row + j0);
            for (int64_t j = j0; j < j1; j++, w += COUNT, at += SIGN) {
                Lanes seen[AT_ONCE];
                UNROLL for (int p = 0; p < AT_ONCE; p++) seen[p] = places[p][at];
                UNROLL for (int f = 0; f < COUNT; f++)
                    UNROLL for (int p = 0; p < AT_ONCE; p++) sums[f][p] += w[f] * seen[p];
            }
        }
}
