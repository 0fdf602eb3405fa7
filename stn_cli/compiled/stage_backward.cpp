// The gradients of a stage's weight, bias and images.

#include "stage.h"

namespace {

constexpr int PAIR_CHANNELS = REGISTERS == 32 ? 12 : 5;  // with two places at a time
constexpr int ONE_BY_ONE = 5;  // channels, up to which gradients of images are made one channel at a time
constexpr int BEFORE = 1, BEHIND = 7;                // zeros at the ends of the rows of a spread gradient
constexpr int64_t NEAREST = 24'000, NEAR = 400'000;  // bytes: what stays in the first and in the second cache
constexpr int64_t WORTH_A_SUM = 64;                  // places, for which the sum over the lanes is made

thread_local Scratch partial_sums;

// The gradient of a convolution's output, [filters][high][row], with zeros at the ends of its rows.
struct Spread {
    Lanes *memory;
    int64_t row, plane;
    const Lanes *at(int64_t filter, int64_t y, int64_t x) const {
        return memory + filter * plane + y * row + BEFORE + x;
    }
};

// Gives the gradient of each window to the place that won it, and adds up the gradients of the biases.
void spread(const Stage &s, const Spread &to, const Lanes *given, const Bytes *winners, Lanes *of_bias) {
    memset((void *)to.memory, 0, s.filters * to.plane * sizeof(Lanes));
    for (int64_t f = 0; f < s.filters; f++)
        for (int64_t window = 0; window < s.windows(); window++) {
            const int64_t at = f * s.windows() + window;
            const Numbers winner = __builtin_convertvector(winners[at], Numbers);
            const Lanes value = winner == NOBODY ? Lanes{} : given[at];
            const int64_t y0 = window / s.columns * s.pool, x0 = window % s.columns * s.pool;
            const int64_t y1 = least(y0 + s.pool, s.high()), x1 = least(x0 + s.pool, s.wide());
            for (int64_t y = y0; y < y1; y++)
                for (int64_t x = x0; x < x1; x++)
                    *(Lanes *)to.at(f, y, x) = winner == (int)((y - y0) * s.pool + x - x0) ? value : Lanes{};
            of_bias[f] += value;
        }
}

// Gradients of COUNT filters from f0 on, of the taps j0 to j0 + TAPS of each row: gradient[f][channel][i][j]. `kept`:
// room for their sums, lane by lane. They are made over several blocks, since a sum over the lanes costs.
template <int COUNT, int TAPS>
void filter_gradients(const Stage &s, const Spread *spreads, const Lanes *const *blocks, int64_t count, int64_t f0,
                      int64_t j0, Lanes *kept, float *gradient) {
    // so many rows that they stay near while all channels and rows of taps pass
    const int64_t some = group_size(s.high(), most(1, NEAREST / (COUNT * s.wide() * (int64_t)sizeof(Lanes))));
    for (int64_t b = 0; b < count; b++)
        for (int64_t y0 = 0; y0 < s.high(); y0 += some)
            for (int64_t ci = 0; ci < s.channels * s.side; ci++) {
                const Lanes *seen = blocks[b] + ci / s.side * s.plane() + ci % s.side * s.width + j0;
                Lanes *place = kept + ci * COUNT * TAPS, sums[COUNT][TAPS];
                UNROLL for (int k = 0; k < COUNT * TAPS; k++)
                    sums[k / TAPS][k % TAPS] = b + y0 == 0 ? Lanes{} : place[k];
                for (int64_t y = y0; y < least(y0 + some, s.high()); y++) {
                    const Lanes *from = spreads[b].at(f0, y, 0), *under = seen + y * s.width;
                    for (int64_t x = 0; x < s.wide(); x++) {
                        Lanes given[COUNT];
                        UNROLL for (int f = 0; f < COUNT; f++) given[f] = from[f * spreads[b].plane + x];
                        UNROLL for (int t = 0; t < TAPS; t++) {
                            const Lanes value = under[x + t];
                            UNROLL for (int f = 0; f < COUNT; f++) sums[f][t] += given[f] * value;
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

template <int TAPS>
int64_t filter_gradients(const Stage &s, const Spread *spreads, const Lanes *const *blocks, int64_t count, int64_t j0,
                         Lanes *kept, float *gradient) {
    constexpr int ROOM = REGISTERS == 32 ? 27 : 12, MOST = ROOM / TAPS ? ROOM / TAPS : 1;
    in_groups<(MOST < 12 ? MOST : 12)>(s.filters, [&](auto size, int64_t f) {
        filter_gradients<size.value, TAPS>(s, spreads, blocks, count, f, j0, kept, gradient);
    });
    return TAPS;
}

// Gradients of COUNT channels of one block: what each place was multiplied with, two places of a row at a time.
template <int COUNT> void image_gradients(const Stage &s, const Spread &from, const float *weights, Lanes *gradient) {
    for (int64_t y = 0; y < s.height; y++)
        for (int64_t x = 0; x < s.width; x += 2) {
            const Lanes *places[2] = {from.at(0, y, x), from.at(0, y, x + 1)};
            Lanes sums[COUNT][2] = {};
            convolve<-1>(sums, places, weights, s.filters, from.plane, from.row, s.side, most(0, y - s.high() + 1),
                         least(s.side, y + 1), most(0, x - s.wide() + 1), least(s.side, x + 2));
            UNROLL for (int c = 0; c < COUNT; c++)
                for (int64_t p = 0; p < least(2, s.width - x); p++)
                    gradient[c * s.plane() + y * s.width + x + p] = sums[c][p];
        }
}

// AT_ONCE places of a row of the spread gradient give to AT_ONCE + SIDE − 1 of the maps: what one channel is fetched
// for would be a single multiplication, and so it is one for each tap.
template <int SIDE, int AT_ONCE>
INLINE void give(const Stage &s, const Spread &from, int64_t f0, int64_t f1, const float *weights, int64_t y,
                 int64_t x, Lanes *row) {
    Lanes sums[AT_ONCE + SIDE - 1] = {};
    const int64_t i0 = most(0, y - s.high() + 1), i1 = least(SIDE, y + 1);
    for (int64_t f = f0; f < f1; f++)
        for (int64_t i = i0; i < i1; i++) {
            const Lanes *given = from.at(f, y - i, x);
            const float *w = weights + (f * SIDE + i) * SIDE;
            Lanes values[AT_ONCE];
            UNROLL for (int p = 0; p < AT_ONCE; p++) values[p] = given[p];
            UNROLL for (int j = 0; j < SIDE; j++)
                UNROLL for (int p = 0; p < AT_ONCE; p++) sums[p + j] += w[j] * values[p];
        }
    for (int64_t k = 0; k < least(AT_ONCE + SIDE - 1, s.width - x); k++) row[x + k] += sums[k];
}

template <int SIDE>
void channel_by_channel(const Stage &s, const Spread &from, const float *weights, Lanes *gradient) {
    memset((void *)gradient, 0, s.in() * sizeof(Lanes));
    const int64_t some = most(1, NEAR / (from.plane * (int64_t)sizeof(Lanes)));
    for (int64_t f = 0; f < s.filters; f += some)
        for (int64_t c = 0; c < s.channels; c++)
            for (int64_t y = 0; y < s.height; y++) {
                const float *w = weights + c * s.filters * SIDE * SIDE;
                Lanes *row = gradient + c * s.plane() + y * s.width;
                const int64_t until = least(f + some, s.filters);
                int64_t x = 0;
                for (; x + 4 < s.wide(); x += 8) give<SIDE, 8>(s, from, f, until, w, y, x, row);
                if (x < s.wide()) give<SIDE, 4>(s, from, f, until, w, y, x, row);
            }
}

bool one_by_one(const Stage &s) { return s.channels <= ONE_BY_ONE && s.side % 2 && s.side > 1 && s.side < 10; }

void image_gradient(const Stage &s, const Spread &from, const float *weights, Lanes *gradient) {
    if (one_by_one(s)) switch (s.side) {
            case 3: return channel_by_channel<3>(s, from, weights, gradient);
            case 5: return channel_by_channel<5>(s, from, weights, gradient);
            case 7: return channel_by_channel<7>(s, from, weights, gradient);
            case 9: return channel_by_channel<9>(s, from, weights, gradient);
        }
    in_groups<PAIR_CHANNELS>(s.channels, [&](auto size, int64_t c) {
        image_gradients<size.value>(s, from, weights + c * s.filters * s.taps(), gradient + c * s.plane());
    });
}

}  // namespace

// The gradients of weight and bias from that of the output, and that of the images unless `of_images` is null.
extern "C" void stn_stage_backward(const int64_t *sizes, const float *gradient, const float *weight,
                                   const Lanes *blocks, const Bytes *winners, float *of_images, float *of_weight,
                                   float *of_bias, int64_t threads) {
    const Stage s = *(const Stage *)sizes;
    const int64_t places = s.high() * s.wide(), all = s.weights() + s.filters;
    const int64_t some = most(1, least(pieces(WORTH_A_SUM, places), s.blocks() / 4)), tasks = pieces(s.blocks(), some);
    float *packed = packed_weights.take<float>(s.weights()), *parts = partial_sums.take<float>(tasks * all);
    if (of_images)
        pack(weight, s.channels, s.filters, s.taps(), s.taps(), s.channels * s.taps(),
             one_by_one(s) ? 1 : group_size(s.channels, PAIR_CHANNELS), packed);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t task = 0; task < tasks; task++) {
        const int64_t first = task * some, count = least(some, s.blocks() - first);
        const int64_t row = s.wide() + BEFORE + BEHIND, size = s.filters * s.high() * row;
        const int64_t sums = s.channels * s.side * REGISTERS + LANES;
        Lanes *memory = own.take<Lanes>(count * size + s.out() + s.filters + most(s.in(), sums) + 2 * count);
        Lanes *given = memory + count * size, *bias = given + s.out(), *rest = bias + s.filters;
        Spread *spreads = (Spread *)(rest + most(s.in(), sums));
        const Lanes **seen = (const Lanes **)(spreads + count);
        float *part = parts + task * all;
        memset((void *)bias, 0, s.filters * sizeof(Lanes));
        for (int64_t k = 0; k < count; k++) {
            const int64_t b = first + k;
            spreads[k] = {memory + k * size, row, s.high() * row};
            seen[k] = blocks + b * s.in();
            into_lanes(gradient + b * LANES * s.out(), s.images(b), s.out(), given);
            spread(s, spreads[k], given, winners + b * s.out(), bias);
        }
        for (int64_t f = 0; f < s.filters; f++) {
            part[s.weights() + f] = 0;
            for (int l = 0; l < LANES; l++) part[s.weights() + f] += bias[f][l];
        }
        for (int64_t j = 0; j < s.side;) {
            const int64_t left = s.side - j;
            j += left >= 9   ? filter_gradients<9>(s, spreads, seen, count, j, rest, part)
                 : left >= 7 ? filter_gradients<7>(s, spreads, seen, count, j, rest, part)
                 : left >= 5 ? filter_gradients<5>(s, spreads, seen, count, j, rest, part)
                 : left >= 3 ? filter_gradients<3>(s, spreads, seen, count, j, rest, part)
                             : filter_gradients<1>(s, spreads, seen, count, j, rest, part);
        }
        for (int64_t k = 0; of_images && k < count; k++) {
            image_gradient(s, spreads[k], packed, rest);
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
