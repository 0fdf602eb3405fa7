// Convolution, max-pooling, bias and ReLU in one pass over the images.
//
// What lies between never leaves the registers: the places of a pooling window are computed together, and their largest
// is all that is kept, with the number of its place.

#include "stage.h"

namespace {

constexpr int PLACES = 4;                         // of a window, or of a row, at a time
constexpr int FILTERS = REGISTERS == 32 ? 6 : 2;  // with so many places

// Bias and ReLU. What is not a number stays so.
INLINE void finish(Lanes value, Numbers winner, float bias, Lanes *output, Bytes *winners) {
    value += bias;
    const Numbers closed = value <= 0.0f;
    *output = closed ? Lanes{} : value;
    *winners = __builtin_convertvector(closed ? Numbers{} + NOBODY : winner, Bytes);
}

// Some filters of a block where windows are pooled. Of several largest values the first wins; places beyond the
// convolution's last row or column see what those before them see, so they never do.
template <int COUNT>
void pooled(const Stage &s, const Lanes *block, const float *weights, const float *bias, Lanes *output,
            Bytes *winners) {
    for (int64_t window = 0; window < s.windows(); window++) {
        const int64_t y = window / s.columns * s.pool, x = window % s.columns * s.pool;
        Lanes best[COUNT];
        Numbers winner[COUNT] = {};
        UNROLL for (int f = 0; f < COUNT; f++) best[f] = Lanes{} - __builtin_inff();
        for (int first = 0; first < s.pool * s.pool; first += PLACES) {
            const Lanes *places[PLACES];
            for (int p = 0; p < PLACES; p++) {
                const int64_t number = least(first + p, s.pool * s.pool - 1);
                places[p] = block + least(y + number / s.pool, s.high() - 1) * s.width +
                            least(x + number % s.pool, s.wide() - 1);
            }
            Lanes sums[COUNT][PLACES] = {};
            convolve<1>(sums, places, weights, s.channels, s.plane(), s.width, s.side, 0, s.side, 0, s.side);
            UNROLL for (int f = 0; f < COUNT; f++) {
                UNROLL for (int p = 0; p < PLACES; p++) {
                    const Numbers wins = (sums[f][p] > best[f]) | (sums[f][p] != sums[f][p]);
                    best[f] = wins ? sums[f][p] : best[f];
                    winner[f] = wins ? Numbers{} + (first + p) : winner[f];
                }
            }
        }
        UNROLL for (int f = 0; f < COUNT; f++) {
            const int64_t at = f * s.windows() + window;
            finish(best[f], winner[f], bias[f], output + at, winners + at);
        }
    }
}

// Some filters of a block without pooling.
template <int COUNT>
void unpooled(const Stage &s, const Lanes *block, const float *weights, const float *bias, Lanes *output,
              Bytes *winners) {
    for (int64_t first = 0; first < s.windows(); first += PLACES) {
        const Lanes *places[PLACES];
        int64_t numbers[PLACES];
        for (int p = 0; p < PLACES; p++) {
            numbers[p] = least(first + p, s.windows() - 1);
            places[p] = block + numbers[p] / s.columns * s.width + numbers[p] % s.columns;
        }
        Lanes sums[COUNT][PLACES] = {};
        convolve<1>(sums, places, weights, s.channels, s.plane(), s.width, s.side, 0, s.side, 0, s.side);
        UNROLL for (int f = 0; f < COUNT; f++) UNROLL for (int p = 0; p < PLACES; p++) {
            const int64_t at = f * s.windows() + numbers[p];
            finish(sums[f][p], Numbers{}, bias[f], output + at, winners + at);
        }
    }
}

}  // namespace

// images [n][channels][height][width] -> output [n][filters][rows][columns]; for the gradients, the images in lanes and
// the winner of each window. sizes: those of Stage.
extern "C" void stn_stage(const int64_t *sizes, const float *images, const float *weight, const float *bias,
                          float *output, Lanes *blocks, Bytes *winners, int64_t threads) {
    const Stage s = *(const Stage *)sizes;
    float *packed = packed_weights.take<float>(s.weights());
    pack(weight, s.filters, s.channels, s.taps(), s.channels * s.taps(), s.taps(), group_size(s.filters, FILTERS), packed);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t b = 0; b < s.blocks(); b++) {
        // without gradients to come, block and winners are of no use later
        Lanes *memory = own.take<Lanes>(s.out() + (blocks ? 0 : s.in() + pieces(s.out(), 4)));
        Lanes *block = blocks ? blocks + b * s.in() : memory + s.out();
        Bytes *won = blocks ? winners + b * s.out() : (Bytes *)(memory + s.out() + s.in());
        into_lanes(images + b * LANES * s.in(), s.images(b), s.in(), block);
        in_groups<FILTERS>(s.filters, [&](auto size, int64_t f) {
            const float *w = packed + f * s.channels * s.taps();
            const int64_t at = f * s.windows();
            if (s.pool > 1) pooled<size.value>(s, block, w, bias + f, memory + at, won + at);
            else unpooled<size.value>(s, block, w, bias + f, memory + at, won + at);
        });
        out_of_lanes(memory, s.images(b), s.out(), output + b * LANES * s.out());
    }
}

extern "C" int64_t stn_lanes() { return LANES; }
