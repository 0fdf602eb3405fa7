// Convolution, max-pooling, bias and ReLU in one pass over the images.
//
// What lies between never leaves the registers: the places of a pooling window are computed together, and their largest
// is all that is kept, with the number of its place.

#pragma once
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

template <class P> struct Pass {
    const Stage &s;
    const Arrangement maps;

    template <int COUNT>
    INLINE void convolve_at(const Factors *const (&places)[PLACES], const typename P::Weight *weights,
                            Lanes (&sums)[COUNT][PLACES]) const {
        const Taps all = {maps.tap_rows, s.side, 0, maps.tap_rows, 0, s.side,
                          maps.below && s.side % 2 ? maps.tap_rows - 1 : -1};
        convolve<P, 1>(sums, places, weights, maps.maps, s.plane(), maps.step * s.width, all);
    }

    // Some filters of a block where windows are pooled. Of several largest values the first wins; places beyond the
    // convolution's last row or column see what those before them see, so they never do.
    template <int COUNT>
    void pooled(const Factors *block, const typename P::Weight *weights, const float *bias, Lanes *output,
                Bytes *winners) const {
        for (int64_t window = 0; window < s.windows(); window++) {
            const int64_t y = window / s.columns * s.pool, x = window % s.columns * s.pool;
            Lanes best[COUNT];
            Numbers winner[COUNT] = {};
            UNROLL for (int f = 0; f < COUNT; f++) best[f] = Lanes{} - __builtin_inff();
            for (int first = 0; first < s.pool * s.pool; first += PLACES) {
                const Factors *places[PLACES];
                int numbers[PLACES];  // what is not a number wins each time it is seen, so it needs its own number
                for (int p = 0; p < PLACES; p++) {
                    const int64_t number = least(first + p, s.pool * s.pool - 1);
                    const int64_t i = least(number / s.pool, s.high() - 1 - y);
                    const int64_t j = least(number % s.pool, s.wide() - 1 - x);
                    places[p] = block + (y + i) * s.width + x + j;
                    numbers[p] = i * s.pool + j;
                }
                Lanes sums[COUNT][PLACES] = {};
                convolve_at(places, weights, sums);
                UNROLL for (int f = 0; f < COUNT; f++) UNROLL for (int p = 0; p < PLACES; p++) {
                    const Numbers wins = (sums[f][p] > best[f]) | (sums[f][p] != sums[f][p]);
                    best[f] = wins ? sums[f][p] : best[f];
                    winner[f] = wins ? Numbers{} + numbers[p] : winner[f];
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
    void unpooled(const Factors *block, const typename P::Weight *weights, const float *bias, Lanes *output,
                  Bytes *winners) const {
        for (int64_t first = 0; first < s.windows(); first += PLACES) {
            const Factors *places[PLACES];
            int64_t numbers[PLACES];
            for (int p = 0; p < PLACES; p++) {
                numbers[p] = least(first + p, s.windows() - 1);
                places[p] = block + numbers[p] / s.columns * s.width + numbers[p] % s.columns;
            }
            Lanes sums[COUNT][PLACES] = {};
            convolve_at(places, weights, sums);
            UNROLL for (int f = 0; f < COUNT; f++) UNROLL for (int p = 0; p < PLACES; p++) {
                const int64_t at = f * s.windows() + numbers[p];
                finish(sums[f][p], Numbers{}, bias[f], output + at, winners + at);
            }
        }
    }

    // Images, a number of each in a lane, as factors.
    void arrange(const Lanes *images, Factors *block) const {
        for (int64_t map = 0; map < maps.maps; map++)
            for (int64_t k = 0; k < s.plane(); k++) {
                const int64_t at = (maps.below ? map : P::TOGETHER * map) * s.plane() + k;
                Factors factors = P::half(images[at], 0);
                const int64_t second = at + (maps.below ? s.width : s.plane());
                if (P::TOGETHER == 2 && second < (maps.below ? (map + 1) * s.plane() : s.in()))
                    factors |= P::half(images[second], 1);
                block[map * s.plane() + k] = factors;
            }
    }

    void operator()(const float *images, const float *weight, const float *bias, float *output, Factors *blocks,
                    Bytes *winners, int64_t threads) const {
        auto at = [&](int64_t f, int64_t c, int64_t i, int64_t j) {
            return c < s.channels && i < s.side ? weight[((f * s.channels + c) * s.side + i) * s.side + j] : 0;
        };
        const int64_t packed_size = maps.maps * maps.tap_rows * s.side;
        auto *packed = packed_weights.take<typename P::Weight>(s.filters * packed_size);
        pack(s.filters, maps.maps, maps.tap_rows, s.side, group_size(s.filters, FILTERS), threads, packed,
             [&](int64_t f, int64_t map, int64_t i, int64_t j) {
                 return maps.below ? P::weight(at(f, map, 2 * i, j), at(f, map, 2 * i + 1, j))
                                   : P::weight(at(f, P::TOGETHER * map, i, j), at(f, P::TOGETHER * map + 1, i, j));
             });
#pragma omp parallel for schedule(dynamic) num_threads(threads)
        for (int64_t b = 0; b < s.blocks(); b++) {
            // without gradients to come, block and winners are of no use later
            const int64_t room = s.out() > s.in() ? s.out() : s.in();  // of the images, then of the output
            Lanes *memory = own.take<Lanes>(room + (blocks ? 0 : s.in() + pieces(s.out(), 4)));
            Factors *block = blocks ? blocks + b * s.in() : (Factors *)(memory + room);
            Bytes *won = blocks ? winners + b * s.out() : (Bytes *)(memory + room + s.in());
            Lanes *plain = P::TOGETHER == 1 ? (Lanes *)block : memory;
            into_lanes(images + b * LANES * s.in(), s.images(b), s.in(), plain);
            if (P::TOGETHER == 2) arrange(plain, block);
            in_groups<FILTERS>(s.filters, [&](auto size, int64_t f) {
                const typename P::Weight *w = packed + f * packed_size;
                const int64_t to = f * s.windows();
                if (s.pool > 1) pooled<size.value>(block, w, bias + f, memory + to, won + to);
                else unpooled<size.value>(block, w, bias + f, memory + to, won + to);
            });
            out_of_lanes(memory, s.images(b), s.out(), output + b * LANES * s.out());
        }
    }
};

}  // namespace
