#include "random.h"

/* SplitMix64 (Steele, Lea and Flood, 2014). */
uint64_t random_next(struct random_stream *random)
{
    random->state += 0x9e3779b97f4a7c15u;
    uint64_t bits = random->state;
    bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
    bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
    return bits ^ (bits >> 31);
}

double random_unit(struct random_stream *random)
{
    return (double)(random_next(random) >> 11) / 9007199254740992.0; /* 53 bits / 2^53 */
}

uint64_t random_below(struct random_stream *random, uint64_t bound)
{
    /* The last, incomplete run of remainders would favour the small ones: draw again. */
    const uint64_t limit = UINT64_MAX - UINT64_MAX % bound;
    uint64_t bits;
    do {
        bits = random_next(random);
    } while (bits >= limit);
    return bits % bound;
}

void random_shuffle(struct random_stream *random, size_t *values, size_t count)
{
    for (size_t i = count; i > 1; i--) {
        const size_t j = (size_t)random_below(random, i);
        const size_t value = values[i - 1];
        values[i - 1] = values[j];
        values[j] = value;
    }
}
