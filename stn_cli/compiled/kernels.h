// The kernels under the names that they are called by.
//
// stn_stage: images [n][channels][height][width] -> output [n][filters][rows][columns]; for the gradients, unless null,
// the images as factors and the winner of each window.
// stn_stage_backward: the gradients of weight and bias from that of the output, and that of the images unless null.
// stn_peak: the operations done by so many rounds of multiply-adds in registers; result: a number for each thread.
// sizes: those of Stage. All arrays lie one number after the other; blocks and winners begin at lines of the caches.

#pragma once
#include "peak.h"
#include "stage_backward.h"
#include "stage_forward.h"

#define KERNELS(NAME, FACTORS)                                                                                        \
    extern "C" void stn_stage_##NAME(const int64_t *sizes, const float *images, const float *weight,                  \
                                     const float *bias, float *output, Factors *blocks, Bytes *winners,               \
                                     int64_t threads) {                                                               \
        Stage s;                                                                                                      \
        memcpy(&s, sizes, sizeof s);                                                                                  \
        Pass<FACTORS>{s, {s, FACTORS::TOGETHER}}(images, weight, bias, output, blocks, winners, threads);             \
    }                                                                                                                 \
    extern "C" void stn_stage_backward_##NAME(const int64_t *sizes, const float *gradient, const float *weight,       \
                                              const Factors *blocks, const Bytes *winners, float *of_images,          \
                                              float *of_weight, float *of_bias, int64_t threads) {                    \
        Stage s;                                                                                                      \
        memcpy(&s, sizes, sizeof s);                                                                                  \
        backward<FACTORS>(s, gradient, weight, blocks, winners, of_images, of_weight, of_bias, threads);              \
    }                                                                                                                 \
    extern "C" int64_t stn_peak_##NAME(int64_t rounds, int64_t threads, float *result) {                              \
        return peak<FACTORS>(rounds, threads, result);                                                                \
    }
