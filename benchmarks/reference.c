/* ALRIGHT on a dense log-linear problem, in straightforward C: the reference of simulate.py.
 *
 * The same draws, updates, averages and records as tradeoff.convex.kernels, one run after another,
 * with the exponential of libm. Built by the benchmark: gcc -O3 -march=native -fopenmp -shared.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { OBJECTIVE, SFT_SAMPLE, PREFERENCE_SAMPLE, STREAMS };

static double uniform(uint64_t key, uint64_t counter) {
    uint64_t z = key + counter * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    return (double)(z >> 11) * 0x1p-53;
}

static double dot(int64_t d, const double *restrict a, const double *restrict b) {
    double total = 0;
    for (int64_t k = 0; k < d; k++) total += a[k] * b[k];
    return total;
}

static void add(int64_t d, double *restrict into, double factor, const double *restrict vector) {
    for (int64_t k = 0; k < d; k++) into[k] += factor * vector[k];
}

/* (replicas, records, d) last and average; keys (replicas, 3); start is the centre. */
void run(int64_t d, const double *features, const int64_t *offsets, int64_t widest,
         int64_t demonstration_count, const int64_t *demonstrations, const int64_t *prompts,
         int64_t pair_count, const double *differences, double beta, double radius,
         double probability, double alpha, int64_t replicas, const uint64_t *keys,
         int64_t record_count, const int64_t *checkpoints, double *last, double *average,
         int64_t threads) {
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (int64_t r = 0; r < replicas; r++) {
        double *theta = calloc(d, sizeof(double)), *total = calloc(d, sizeof(double));
        double *gradient = malloc(d * sizeof(double)), *p = malloc(widest * sizeof(double));
        const uint64_t *key = keys + r * STREAMS;
        int64_t t = 0;
        for (int64_t record = 0; record < record_count; record++) {
            for (; t < checkpoints[record]; t++) {
                add(d, total, 1.0, theta);
                if (uniform(key[OBJECTIVE], t) < probability) {
                    int64_t j = (int64_t)(uniform(key[PREFERENCE_SAMPLE], t) * pair_count);
                    const double *delta = differences + j * d;
                    double slope = -beta / (1 + exp(beta * dot(d, delta, theta)));
                    add(d, theta, -alpha * slope, delta);
                } else {
                    int64_t i = (int64_t)(uniform(key[SFT_SAMPLE], t) * demonstration_count);
                    int64_t x = prompts[i], size = offsets[x + 1] - offsets[x];
                    const double *phi = features + offsets[x] * d;
                    double peak = -INFINITY, sum = 0;
                    for (int64_t y = 0; y < size; y++) {
                        p[y] = dot(d, phi + y * d, theta);
                        if (p[y] > peak) peak = p[y];
                    }
                    for (int64_t y = 0; y < size; y++) sum += p[y] = exp(p[y] - peak);
                    memset(gradient, 0, d * sizeof(double));
                    for (int64_t y = 0; y < size; y++) add(d, gradient, p[y] / sum, phi + y * d);
                    add(d, gradient, -1.0, features + demonstrations[i] * d);
                    add(d, theta, -alpha, gradient);
                }
                double norm = sqrt(dot(d, theta, theta));
                if (norm > radius)
                    for (int64_t k = 0; k < d; k++) theta[k] *= radius / norm;
            }
            double *here = last + (r * record_count + record) * d;
            memcpy(here, theta, d * sizeof(double));
            here = average + (r * record_count + record) * d;
            for (int64_t k = 0; k < d; k++) here[k] = t > 0 ? total[k] / t : theta[k];
        }
        free(theta), free(total), free(gradient), free(p);
    }
}
