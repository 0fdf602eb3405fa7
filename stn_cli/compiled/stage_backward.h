// The gradients of a stage's weight, bias and images.

#pragma once
#include "stage.h"

namespace {

constexpr int PAIR_CHANNELS = REGISTERS == 32 ? 12 : 5;  // with two places at a time
constexpr int ONE_BY_ONE = 5;  // channels, up to which gradients of images are made one channel at a time
constexpr int BEFORE = 1, BEHIND = 7;                // zeros at the ends of the rows of a spread gradient
constexpr int64_t NEAREST = 24'000, NEAR = 400'000;  // bytes: what stays in the first and in the second cache
constexpr int64_t WORTH_A_SUM = 64;                  // places, for which the sum over the lanes is made

thread_local Scratch partial_sums;

// The gradient of a convolution's output, [filters][high][row], with zeros at the ends of its rows. As factors, two
// images or two filters are put together.
struct Spread {
    Factors *memory;
    int64_t row, plane;
    Factors *at(int64_t filter, int64_t y, int64_t x) const { return memory + filter * plane + y * row + BEFORE + x; }
};

// Gives the gradients of the windows of one block, or of two, to the places that won them, and adds up those of the
// biases.
template <class P>
void spread(const Stage &s, const Spread &to, int count, const Lanes *given, const Bytes *winners, Lanes *of_bias) {
    memset((void *)to.memory, 0, s.filters * to.plane * sizeof(Factors));
    for (int64_t f = 0; f < s.filters; f++)
        for (int64_t window = 0; window < s.windows(); window++) {
            Numbers winner[2];
            Factors value[2];
            for (int k = 0; k < count; k++) {
                const int64_t at = k * s.out() + f * s.windows() + window;
                winner[k] = __builtin_convertvector(winners[at], Numbers);
                const Lanes gradient = winner[k] == NOBODY ? Lanes{} : given[at];
                value[k] = P::half(gradient, k);
                of_bias[f] += gradient;
            }
            const int64_t y0 = window / s.columns * s.pool, x0 = window % s.columns * s.pool;
            const int64_t y1 = least(y0 + s.pool, s.high()), x1 = least(x0 + s.pool, s.wide());
            for (int64_t y = y0; y < y1; y++)
                for (int64_t x = x0; x < x1; x++) {
                    const int number = (y - y0) * s.pool + x - x0;
                    Factors all = winner[0] == number ? value[0] : Factors{};
                    if (count == 2) all |= winner[1] == number ? value[1] : Factors{};
                    *to.at(f, y, x) = all;
                }
        }
}

// Gradients of COUNT filters from f0 on, of the taps j0 to j0 + TAPS of each row: gradient[f][channel][i][j]. `kept`:
// room for their sums, lane by lane. They are made over several blocks, since a sum over the lanes costs.
template <class P, int COUNT, int TAPS>
void filter_gradients(const Stage &s, const Spread *spreads, const Factors *const *blocks, int64_t count, int64_t f0,
                      int64_t j0, Lanes *kept, float *gradient) {
    // so many rows that they stay near while all channels and rows of taps pass
    const int64_t some = group_size(s.high(), most(1, NEAREST / (COUNT * s.wide() * (int64_t)sizeof(Lanes))));
    for (int64_t b = 0; b < count; b++)
        for (int64_t y0 = 0; y0 < s.high(); y0 += some)
            for (int64_t ci = 0; ci < s.channels * s.side; ci++) {
                const Factors *seen = blocks[b] + ci / s.side * s.plane() + ci % s.side * s.width + j0;
                Lanes *place = kept + ci * COUNT * TAPS, sums[COUNT][TAPS];
                UNROLL for (int k = 0; k < COUNT * TAPS; k++)
                    sums[k / TAPS][k % TAPS] = b + y0 == 0 ? Lanes{} : place[k];
                for (int64_t y = y0; y < least(y0 + some, s.high()); y++) {
                    const Factors *from = spreads[b].at(f0, y, 0), *under = seen + y * s.width;
                    for (int64_t x = 0; x < s.wide(); x++) {
                        Factors given[COUNT];
                        UNROLL for (int f = 0; f < COUNT; f++) given[f] = from[f * spreads[b].plane + x];
                        UNROLL for (int t = 0; t < TAPS; t++) {
                            const Factors value = under[x + t];
                            UNROLL for (int f = 0; f < COUNT; f++) P::add(sums[f][t], given[f], value);
                        }
                    }
                }
                UNROLL for (int k = 0; k < COUNT * TAPS; k++) place[k] = sums[k / TAPS][k % TAPS];
            }
    const int64_t rows = s.channels * s.side;
    float *in_order = (float *)kept;  // the sums take the places of what they are made of
    for (int64_t k = 0; k < rows * COUNT * TAPS; k += LANES) store(sums_of(kept + k), in_order + k);
    for (int64_t k = 0; k < rows * COUNT; k++)
        memcpy(gradient + ((f0 + k % COUNT) * rows + k / COUNT) * s.side + j0, in_order + k * TAPS, TAPS * sizeof(float));
}

template <class P, int TAPS>
int64_t filter_gradients(const Stage &s, const Spread *spreads, const Factors *const *blocks, int64_t count,
                         int64_t j0, Lanes *kept, float *gradient) {
    constexpr int ROOM = REGISTERS == 32 ? 27 : 12, MOST = ROOM / TAPS ? ROOM / TAPS : 1;
    in_groups<(MOST < 5 ? MOST : 5)>(s.filters, [&](auto size, int64_t f) {
        filter_gradients<P, size.value, TAPS>(s, spreads, blocks, count, f, j0, kept, gradient);
    });
    return TAPS;
}

// Gradients of COUNT channels of one block: what each place was multiplied with, two places of a row at a time.
template <class P, int COUNT>
void image_gradients(const Stage &s, const Spread &from, const typename P::Weight *weights, Lanes *gradient) {
    for (int64_t y = 0; y < s.height; y++)
        for (int64_t x = 0; x < s.width; x += 2) {
            const Factors *places[2] = {from.at(0, y, x), from.at(0, y, x + 1)};
            const Taps taps = {s.side, s.side, most(0, y - s.high() + 1), least(s.side, y + 1),
                               most(0, x - s.wide() + 1), least(s.side, x + 2)};
            Lanes sums[COUNT][2] = {};
            convolve<P, -1>(sums, places, weights, pieces(s.filters, P::TOGETHER), from.plane, from.row, taps);
            UNROLL for (int c = 0; c < COUNT; c++)
                for (int64_t p = 0; p < least(2, s.width - x); p++)
                    gradient[c * s.plane() + y * s.width + x + p] = sums[c][p];
        }
}

// AT_ONCE places of a row of the spread gradient give to AT_ONCE + SIDE − 1 of the maps: what one channel is fetched
// for would be a single multiplication, and so it is one for each tap.
template <class P, int SIDE, int AT_ONCE>
INLINE void give(const Stage &s, const Spread &from, int64_t f0, int64_t f1, const typename P::Weight *weights,
                 int64_t y, int64_t x, Lanes *row) {
    Lanes sums[AT_ONCE + SIDE - 1] = {};
    const int64_t i0 = most(0, y - s.high() + 1), i1 = least(SIDE, y + 1);
    for (int64_t f = f0; f < f1; f++)
        for (int64_t i = i0; i < i1; i++) {
            const Factors *given = from.at(f, y - i, x);
            const typename P::Weight *w = weights + (f * SIDE + i) * SIDE;
            Factors values[AT_ONCE];
            UNROLL for (int p = 0; p < AT_ONCE; p++) values[p] = given[p];
            UNROLL for (int j = 0; j < SIDE; j++)
                UNROLL for (int p = 0; p < AT_ONCE; p++) P::add(sums[p + j], w[j], values[p]);
        }
    for (int64_t k = 0; k < least(AT_ONCE + SIDE - 1, s.width - x); k++) row[x + k] += sums[k];
}

template <class P, int SIDE>
void channel_by_channel(const Stage &s, const Spread &from, const typename P::Weight *weights, Lanes *gradient) {
    memset((void *)gradient, 0, s.in() * sizeof(Lanes));
    const int64_t filters = pieces(s.filters, P::TOGETHER);
    const int64_t some = most(1, NEAR / (from.plane * (int64_t)sizeof(Lanes)));
    for (int64_t f = 0; f < filters; f += some)
        for (int64_t c = 0; c < s.channels; c++)
            for (int64_t y = 0; y < s.height; y++) {
                const typename P::Weight *w = weights + c * filters * SIDE * SIDE;
                Lanes *row = gradient + c * s.plane() + y * s.width;
                const int64_t until = least(f + some, filters);
                int64_t x = 0;
                for (; x + 4 < s.wide(); x += 8) give<P, SIDE, 8>(s, from, f, until, w, y, x, row);
                if (x < s.wide()) give<P, SIDE, 4>(s, from, f, until, w, y, x, row);
            }
}

bool one_by_one(const Stage &s) { return s.channels <= ONE_BY_ONE && s.side % 2 && s.side > 1 && s.side < 10; }

template <class P>
void image_gradient(const Stage &s, const Spread &from, const typename P::Weight *weights, Lanes *gradient) {
    if (one_by_one(s)) switch (s.side) {
            case 3: return channel_by_channel<P, 3>(s, from, weights, gradient);
            case 5: return channel_by_channel<P, 5>(s, from, weights, gradient);
            case 7: return channel_by_channel<P, 7>(s, from, weights, gradient);
            case 9: return channel_by_channel<P, 9>(s, from, weights, gradient);
        }
    in_groups<PAIR_CHANNELS>(s.channels, [&](auto size, int64_t c) {
        const int64_t before = c * pieces(s.filters, P::TOGETHER) * s.taps();
        image_gradients<P, size.value>(s, from, weights + before, gradient + c * s.plane());
    });
}

#if defined(__AVX512BF16__)
// What holds two images together in each factor, from what holds two channels of each, or a number and that below it.
void images_together(const Stage &s, const Factors *first, const Factors *second, Factors *to) {
    const Arrangement maps(s, 2);
    for (int64_t c = 0; c < s.channels; c++)
        for (int64_t k = 0; k < s.plane(); k++) {
            const int64_t from = (maps.below ? c : c / 2) * s.plane() + k;
            const Factors a = first[from], b = second ? second[from] : Factors{};
            to[c * s.plane() + k] = maps.below || c % 2 == 0 ? firsts(a, b) : seconds(a, b);
        }
}

// What holds two filters of one image together in each factor, from what holds two images.
void filters_together(const Stage &s, const Spread &from, int second, const Spread &to) {
    for (int64_t f = 0; f < s.filters; f += 2)
        for (int64_t k = 0; k < from.plane; k++) {
            const Factors *at = from.memory + f * from.plane + k;
            const Factors a = at[0], b = f + 1 < s.filters ? at[from.plane] : Factors{};
            to.memory[f / 2 * from.plane + k] = second ? seconds(a, b) : firsts(a, b);
        }
}
#else
void images_together(const Stage &, const Factors *, const Factors *, Factors *) {}
void filters_together(const Stage &, const Spread &, int, const Spread &) {}
#endif

template <class P>
void backward(const Stage &s, const float *gradient, const float *weight, const Factors *blocks, const Bytes *winners,
              float *of_images, float *of_weight, float *of_bias, int64_t threads) {
    constexpr int TOGETHER = P::TOGETHER;
    const int64_t row = s.wide() + BEFORE + BEHIND, size = s.filters * s.high() * row;
    const int64_t all = s.weights() + s.filters;
    // in blocks, or twos of them
    const int64_t worth = pieces(WORTH_A_SUM, s.high() * s.wide() * TOGETHER);
    const int64_t some = most(1, least(worth, s.blocks() / (4 * TOGETHER)));
    const int64_t tasks = pieces(s.blocks(), some * TOGETHER);
    auto *packed = packed_weights.take<typename P::Weight>(s.channels * pieces(s.filters, TOGETHER) * s.taps());
    float *parts = partial_sums.take<float>(tasks * all);
    auto at = [&](int64_t f, int64_t c, int64_t i, int64_t j) {
        return f < s.filters ? weight[((f * s.channels + c) * s.side + i) * s.side + j] : 0;
    };
    if (of_images)
        pack(s.channels, pieces(s.filters, TOGETHER), s.side, s.side,
             one_by_one(s) ? 1 : group_size(s.channels, PAIR_CHANNELS), threads, packed,
             [&](int64_t c, int64_t map, int64_t i, int64_t j) {
                 return P::weight(at(TOGETHER * map, c, i, j), at(TOGETHER * map + 1, c, i, j));
             });
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t task = 0; task < tasks; task++) {
        const int64_t first = task * some * TOGETHER, count = least(some, pieces(s.blocks() - first, TOGETHER));
        const int64_t rest_size = most(most(s.in(), TOGETHER * s.out()), s.channels * s.side * REGISTERS + LANES);
        const int64_t together = TOGETHER == 1 ? 0 : size / s.filters * pieces(s.filters, 2) + count * s.in();
        Lanes *memory = own.take<Lanes>(count * size + together + rest_size + s.filters + 2 * count);
        Lanes *rest = memory + count * size + together, *bias = rest + rest_size;
        const Spread by_filters = {(Factors *)memory + count * size, row, s.high() * row};
        Factors *by_images = by_filters.memory + (together - count * s.in());
        Spread *spreads = (Spread *)(bias + s.filters);
        const Factors **seen = (const Factors **)(spreads + count);
        float *part = parts + task * all;
        memset((void *)bias, 0, s.filters * sizeof(Lanes));
        for (int64_t k = 0; k < count; k++) {
            const int64_t b = first + k * TOGETHER, here = least(TOGETHER, s.blocks() - b);
            for (int64_t i = 0; i < here; i++)
                into_lanes(gradient + (b + i) * LANES * s.out(), s.images(b + i), s.out(), rest + i * s.out());
            spreads[k] = {(Factors *)memory + k * size, row, s.high() * row};
            spread<P>(s, spreads[k], here, rest, winners + b * s.out(), bias);
            seen[k] = blocks + b * s.in();
            if (TOGETHER == 2) {
                images_together(s, seen[k], here == 2 ? seen[k] + s.in() : nullptr, by_images + k * s.in());
                seen[k] = by_images + k * s.in();
            }
        }
        for (int64_t f = 0; f < s.filters; f++) {
            part[s.weights() + f] = 0;
            for (int l = 0; l < LANES; l++) part[s.weights() + f] += bias[f][l];
        }
        for (int64_t j = 0; j < s.side;) {
            const int64_t left = s.side - j;
            j += left >= 9   ? filter_gradients<P, 9>(s, spreads, seen, count, j, rest, part)
                 : left >= 7 ? filter_gradients<P, 7>(s, spreads, seen, count, j, rest, part)
                 : left >= 5 ? filter_gradients<P, 5>(s, spreads, seen, count, j, rest, part)
                 : left >= 3 ? filter_gradients<P, 3>(s, spreads, seen, count, j, rest, part)
                             : filter_gradients<P, 1>(s, spreads, seen, count, j, rest, part);
        }
        for (int64_t k = 0; of_images && k < count * TOGETHER && first + k < s.blocks(); k++) {
            if (TOGETHER == 2) filters_together(s, spreads[k / 2], k % 2, by_filters);
            image_gradient<P>(s, TOGETHER == 2 ? by_filters : spreads[k], packed, rest);
            out_of_lanes(rest, s.images(first + k), s.in(), of_images + (first + k) * LANES * s.in());
        }
    }
#pragma omp parallel for num_threads(threads)
    for (int64_t w = 0; w < all; w++) {
        float total = 0;
        for (int64_t task = 0; task < tasks; task++) total += parts[task * all + w];
        (w < s.weights() ? of_weight[w] : of_bias[w - s.weights()]) = total;
    }
}

}  // namespace
