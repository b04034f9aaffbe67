/* Whole rollouts of a pointer policy on a walk, and the gradient of their log-probabilities: see cpu.py and features.py.
 *
 * Compiled for one network: -DDIM=128 -DHEADS=8 -DROLES=2 -DSCALARS=0. One thread works on one instance at a time (on a part of its rollouts,
 * where there are few instances), whose keys, values and logit keys stay in its cache.
 *
 * rollouts_of: a rollout at a time. The query is a sum of rows, so its product with the keys is a sum of rows of
 *     tables, made at a row's first use and shared by all rollouts. Lanes are nodes there and channels elsewhere;
 *     nodes that are not allowed cost nothing but in the first.
 * gradient_of: 16 steps of a rollout at a time, which are the lanes, over the nodes that are open at the first of them.
 *     Everything is computed anew from the actions, so nothing has to be kept from acting.
 */
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#define WIDTH (DIM / HEADS)
#define CHANNELS (WIDTH % 16 ? WIDTH % 8 ? 4 : 8 : 16) /* lanes of a vector of channels */
#define VECS (DIM / CHANNELS)                           /* vectors of a node */
#define PER_HEAD (WIDTH / CHANNELS)
#define LANES 16
#define LOG2E 1.4426950408889634f
#define NEVER (-1e30f)
#define INLINE static inline __attribute__((always_inline))

typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef float chans __attribute__((vector_size(4 * CHANNELS), aligned(4), may_alias));

enum { FIRST, CURRENT }; /* roles */
enum { ROOM, LEFT };     /* scalars */
enum { NO_MEMORY, FINE, LATE }; /* how a thread ends */

struct job_t {
    std::atomic<int64_t> next; /* the next part that nobody works on */
    int64_t parts; /* that the rollouts of an instance are cut into, where there are fewer instances than threads */
    int64_t batch, rollouts, steps, nodes, given, has_depot;
    int32_t role[2], scalar[2];
    float clip, temperature;
    double seconds;                   /* that acting may take, infinite where nothing limits it */
    const float *keys, *values;       /* [batch, heads, nodes, width] */
    const float *logit_keys;          /* [batch, nodes, dim] */
    const float *queries;             /* [batch, roles, nodes + 1, dim] */
    const float *bias;                /* [batch, roles, nodes + 1, nodes] or null */
    const float *weights;             /* [batch, scalars, dim] */
    const double *demand, *capacity, *slack; /* [batch, nodes], [batch], [batch] */
    const float *noise;               /* [steps, batch, rollouts], or null: greedy */
    const int64_t *forced;            /* [batch, rollouts, given] */
    int64_t *actions;                 /* [batch, rollouts, steps] */
    float *log_prob;                  /* [batch, rollouts] */
    const float *carried;             /* [batch, rollouts], derivatives; null: log_prob alone */
    float *d_keys, *d_values, *d_logit_keys, *d_queries, *d_bias; /* [parts, batch, ...] as above, zero at first */
    float *d_weights;                 /* [parts, batch, scalars, dim], zero at first */
};

/* ------------------------------------------------------------------ mathematics */

INLINE lanes maximum(lanes a, lanes b) { return a > b ? a : b; }
INLINE lanes minimum(lanes a, lanes b) { return a < b ? a : b; }
INLINE lanes all(float x) { return (lanes){0} + x; }

INLINE lanes power_of_two(lanes x) { /* 2^x, relative error below 2e-7; 2^-126 where x is lower */
    x = minimum(maximum(x, all(-126.f)), all(127.f));
    lanes shifted = x + 12582912.f; /* 1.5 * 2^23: the whole part moves into the low bits */
    lanes f = x - (shifted - 12582912.f);
    lanes y = all(1.3276471e-3f); /* the best polynomial of degree 5 from -1/2 to 1/2 */
    y = y * f + 9.6755413e-3f;
    y = y * f + 5.5507133e-2f;
    y = y * f + 2.4022120e-1f;
    y = y * f + 6.9314697e-1f;
    y = y * f + 1.f;
    return (lanes)((ints)y + ((ints)shifted << 23));
}

INLINE lanes hyperbolic_tangent(lanes x) {
    return 1.f - 2.f / (1.f + power_of_two(x * (2 * LOG2E)));
}

typedef float quarter __attribute__((vector_size(16)));

INLINE float highest(lanes x) {
    quarter q[4];
    memcpy(q, &x, sizeof q);
    quarter one = q[0] > q[1] ? q[0] : q[1], two = q[2] > q[3] ? q[2] : q[3];
    one = one > two ? one : two;
    float left = one[0] > one[1] ? one[0] : one[1], right = one[2] > one[3] ? one[2] : one[3];
    return left > right ? left : right;
}

INLINE quarter fold(lanes x) {
    quarter q[4];
    memcpy(q, &x, sizeof q);
    return (q[0] + q[1]) + (q[2] + q[3]);
}

INLINE float sum_lanes(lanes x) {
    quarter s = fold(x);
    return (s[0] + s[1]) + (s[2] + s[3]);
}

INLINE quarter sum_of_four(quarter a, quarter b, quarter c, quarter d) { /* the sums of each, side by side */
    quarter ab = __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);
    quarter cd = __builtin_shufflevector(c, d, 0, 4, 1, 5) + __builtin_shufflevector(c, d, 2, 6, 3, 7);
    return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}

INLINE quarter fold_chans(chans x) {
#if CHANNELS == 16
    lanes y;
    memcpy(&y, &x, sizeof y);
    return fold(y);
#else
    quarter q[CHANNELS / 4];
    memcpy(q, &x, sizeof q);
    for (int i = 1; i < CHANNELS / 4; i++) q[0] += q[i];
    return q[0];
#endif
}

/* ------------------------------------------------------------------ the walk */

typedef struct {
    int64_t first, current; /* nodes; `nodes` is nobody */
    double load;
    int open;               /* nodes that are not visited, apart from the depot, in order: */
    int32_t *alive;
    int done;
} state_t;

static void begin(const job_t *job, int64_t b, state_t *s) {
    int depot = job->has_depot != 0;
    s->first = depot ? 0 : job->nodes;
    s->current = s->first;
    s->load = depot ? job->capacity[b] : 0;
    s->open = 0;
    s->done = 0;
    for (int64_t n = depot; n < job->nodes; n++) s->alive[s->open++] = (int32_t)n;
}

static void move(const job_t *job, int64_t b, state_t *s, int64_t action) {
    if (s->done) return;
    if (s->first == job->nodes) s->first = action;
    int at = 0;
    while (at < s->open && s->alive[at] != action) at++;
    if (at < s->open) {
        s->open--;
        memmove(s->alive + at, s->alive + at + 1, sizeof *s->alive * (size_t)(s->open - at));
    }
    s->done = s->open == 0;
    s->current = action;
    if (job->has_depot) {
        if (s->done) s->current = 0;
        s->load = s->current ? s->load - job->demand[b * job->nodes + action] : job->capacity[b];
    }
}

static int allowed(const job_t *job, int64_t b, const state_t *s, int32_t *nodes) {
    if (!job->has_depot) {
        memcpy(nodes, s->alive, sizeof *nodes * (size_t)s->open);
        return s->open;
    }
    const double *demand = job->demand + b * job->nodes;
    double room = s->load + job->slack[b];
    int count = 0;
    nodes[0] = 0;
    count += s->current != 0 || s->done;
    for (int i = 0; i < s->open; i++) {
        nodes[count] = s->alive[i];
        count += demand[s->alive[i]] <= room;
    }
    return count;
}

INLINE int64_t row_of(const job_t *job, const state_t *s, int role) {
    return job->role[role] == FIRST ? s->first : s->current;
}

INLINE float scalar_of(const job_t *job, int64_t b, const state_t *s, int which) {
    if (job->scalar[which] == ROOM) return (float)(s->load / job->capacity[b]);
    return (float)s->open / (float)(job->nodes - 1);
}

/* ------------------------------------------------------------------ memory of a thread */

typedef struct {
    char *base;
    size_t size, used;
} arena_t;

static thread_local arena_t arena;

static int reserve(size_t bytes) { /* 0 where there is not so much */
    arena.used = 0;
    if (bytes <= arena.size) return 1;
    free(arena.base);
    arena.size = (bytes + 4095) / 4096 * 4096;
    arena.base = (char *)aligned_alloc(4096, arena.size);
    if (!arena.base) arena.size = 0;
    return arena.base != NULL;
}

static void *take(size_t bytes) {
    void *found = arena.base + arena.used;
    arena.used += (bytes + 63) / 64 * 64;
    return found;
}

#define TAKE(type, count) ((type *)take(sizeof(type) * (size_t)(count)))

/* from [heads, nodes, width] to [nodes, dim], and back */
static void by_node(float *to, const float *from, int64_t nodes) {
    for (int64_t n = 0; n < nodes; n++)
        for (int h = 0; h < HEADS; h++) memcpy(to + n * DIM + h * WIDTH, from + (h * nodes + n) * WIDTH, 4 * WIDTH);
}

static void by_head(float *to, const float *from, int64_t nodes) {
    for (int64_t n = 0; n < nodes; n++)
        for (int h = 0; h < HEADS; h++) memcpy(to + (h * nodes + n) * WIDTH, from + n * DIM + h * WIDTH, 4 * WIDTH);
}

/* ------------------------------------------------------------------ acting */

/* the products of a query with all keys, [heads, padded] in powers of two, and the highest of each head */
static void products(lanes *to, float *top, const float *query, const lanes *keys, int64_t blocks) {
    float scale = LOG2E / sqrtf(WIDTH);
    for (int h = 0; h < HEADS; h++) {
        lanes most = all(NEVER);
        for (int64_t n = 0; n < blocks; n++) {
            lanes sum = all(0);
            for (int w = 0; w < WIDTH; w++) sum += query[h * WIDTH + w] * keys[(h * WIDTH + w) * blocks + n];
            to[h * blocks + n] = sum * scale;
            most = maximum(most, sum * scale);
        }
        top[h] = highest(most);
    }
}

#define LOOK_EVERY 8 /* steps between two looks at the clock */

typedef std::chrono::steady_clock watch;

static int rollouts_of(const job_t *job, int64_t b, int64_t part, watch::time_point begun) {
    const int64_t nodes = job->nodes, blocks = (nodes + LANES - 1) / LANES, padded = blocks * LANES;
    const int64_t rows = ROLES * (nodes + 1);
    const size_t table = (size_t)HEADS * padded;
    if (!reserve(4 * ((size_t)DIM * padded + (size_t)nodes * DIM + table * (rows + SCALARS + 1) + HEADS * (rows + SCALARS) + 8 * padded) + rows + 8192))
        return NO_MEMORY;
    lanes *keys = TAKE(lanes, DIM * blocks);
    float *values = TAKE(float, nodes * DIM);
    lanes *tables = TAKE(lanes, rows * HEADS * blocks);
    lanes *of_scalars = TAKE(lanes, SCALARS * HEADS * blocks);
    float *tops = TAKE(float, (rows + SCALARS) * HEADS);
    lanes *shares = TAKE(lanes, HEADS * blocks);
    lanes *closed = TAKE(lanes, blocks);
    lanes *logits = TAKE(lanes, blocks);
    lanes *tempered = TAKE(lanes, blocks);
    int32_t *alive = TAKE(int32_t, padded + 1), *open = TAKE(int32_t, padded + 1);
    char *made = TAKE(char, rows);

    const float *logit_keys = job->logit_keys + b * nodes * DIM;
    const float *queries = job->queries + b * rows * DIM;
    const float *bias = job->bias ? job->bias + b * rows * nodes : NULL;
    memset(keys, 0, sizeof(lanes) * (size_t)(DIM * blocks));
    for (int h = 0; h < HEADS; h++)
        for (int64_t n = 0; n < nodes; n++)
            for (int w = 0; w < WIDTH; w++)
                ((float *)keys)[(h * WIDTH + w) * padded + n] = job->keys[((b * HEADS + h) * nodes + n) * WIDTH + w];
    by_node(values, job->values + b * nodes * DIM, nodes);
    memset(made, 0, (size_t)rows);
    for (int64_t s = 0; s < SCALARS; s++)
        products(of_scalars + s * HEADS * blocks, tops + (rows + s) * HEADS, job->weights + (b * SCALARS + s) * DIM, keys, blocks);

    for (int64_t r = part * job->rollouts / job->parts; r < (part + 1) * job->rollouts / job->parts; r++) {
        int64_t *actions = job->actions + (b * job->rollouts + r) * job->steps;
        float total_log_prob = 0;
        state_t s;
        s.alive = alive;
        begin(job, b, &s);
        for (int64_t t = 0; t < job->steps; t++) {
            if (t % LOOK_EVERY == 0 && job->seconds < INFINITY)
                if (std::chrono::duration<double>(watch::now() - begun).count() >= job->seconds) return LATE;
            if (t < job->given) {
                actions[t] = job->forced[(b * job->rollouts + r) * job->given + t];
                move(job, b, &s, actions[t]);
                continue;
            }
            int count = allowed(job, b, &s, open);
            if (count == 1) { /* certain: its log-probability is 0 */
                actions[t] = open[0];
                move(job, b, &s, actions[t]);
                continue;
            }
            /* shares of the glimpse, of each head, not divided by their sum yet */
            for (int64_t n = 0; n < blocks; n++) closed[n] = all(NEVER);
            for (int i = 0; i < count; i++) ((float *)closed)[open[i]] = 0;
            const lanes *row[2] = {NULL, NULL};
            int64_t at[2] = {0, 0};
            for (int64_t role = 0; role < ROLES; role++) {
                at[role] = role * (nodes + 1) + row_of(job, &s, (int)role);
                if (!made[at[role]]) {
                    products(tables + at[role] * HEADS * blocks, tops + at[role] * HEADS, queries + at[role] * DIM, keys,
                             blocks);
                    made[at[role]] = 1;
                }
                row[role] = tables + at[role] * HEADS * blocks;
            }
            float number[2] = {0, 0};
            for (int64_t k = 0; k < SCALARS; k++) number[k] = scalar_of(job, b, &s, (int)k);
            auto score = [&](int h, int64_t n) {
                lanes x = closed[n];
                for (int role = 0; role < ROLES; role++) x += row[role][h * blocks + n];
                for (int k = 0; k < SCALARS; k++) x += number[k] * of_scalars[(k * HEADS + h) * blocks + n];
                return x;
            };
            float inverse[HEADS];
            quarter folded[(HEADS + 3) / 4 * 4] = {};
            for (int h = 0; h < HEADS; h++) {
                /* below this by at most what the allowed nodes lack of the highest of all: no search is needed */
                float top = 0;
                for (int role = 0; role < ROLES; role++) top += tops[at[role] * HEADS + h];
                for (int k = 0; k < SCALARS; k++) top += number[k] * tops[(rows + k) * HEADS + h];
                lanes sum = all(0);
                lanes *share = shares + h * blocks;
                for (int64_t n = 0; n < blocks; n++) {
                    share[n] = power_of_two(score(h, n) - top);
                    sum += share[n];
                }
                folded[h] = fold(sum);
            }
            for (int h = 0; h < HEADS; h += 4) {
                quarter sums = sum_of_four(folded[h], folded[h + 1], folded[h + 2], folded[h + 3]);
                for (int k = 0; k < 4 && h + k < HEADS; k++) {
                    float whole = sums[k];
                    if (whole < 1e-20f) { /* it was far below: the search is needed */
                        lanes most = all(NEVER), sum = all(0);
                        lanes *share = shares + (h + k) * blocks;
                        for (int64_t n = 0; n < blocks; n++) most = maximum(most, score(h + k, n));
                        float top = highest(most);
                        for (int64_t n = 0; n < blocks; n++) {
                            share[n] = power_of_two(score(h + k, n) - top);
                            sum += share[n];
                        }
                        whole = sum_lanes(sum);
                    }
                    inverse[h + k] = 1.f / (whole * sqrtf(DIM));
                }
            }
            /* the glimpse, divided by the square root that the logits are divided by */
            chans seen[VECS];
            for (int v = 0; v < VECS; v++) seen[v] = (chans){0};
            for (int i = 0; i < count; i++) {
                const chans *value = (const chans *)(values + open[i] * DIM);
                const float *share = (const float *)shares + open[i];
                for (int v = 0; v < VECS; v++) seen[v] += share[v / PER_HEAD * padded] * value[v];
            }
            for (int v = 0; v < VECS; v++) seen[v] *= inverse[v / PER_HEAD];
            float *logit = (float *)logits;
            auto product = [&](int i) {
                const chans *key = (const chans *)(logit_keys + open[i < count ? i : 0] * DIM);
                chans one = {0}, two = {0};
                for (int v = 0; v < VECS; v += 2) {
                    one += seen[v] * key[v];
                    if (v + 1 < VECS) two += seen[v + 1] * key[v + 1];
                }
                return fold_chans(one + two);
            };
            for (int i = 0; i < count; i += 4) {
                quarter sums = sum_of_four(product(i), product(i + 1), product(i + 2), product(i + 3));
                memcpy(logit + i, &sums, sizeof sums);
            }
            const int used = (count + LANES - 1) / LANES;
            for (int i = count; i < used * LANES; i++) logit[i] = 0;
            for (int n = 0; n < used; n++) logits[n] = hyperbolic_tangent(logits[n]);
            if (bias)
                for (int64_t role = 0; role < ROLES; role++) {
                    const float *of_role = bias + at[role] * nodes;
                    for (int i = 0; i < count; i++) logit[i] += of_role[open[i]];
                }
            int best = 0;
            for (int i = 1; i < count; i++) best = logit[i] > logit[best] ? i : best;
            const float top = logit[best], scale = job->clip * LOG2E;
            for (int i = count; i < used * LANES; i++) logit[i] = NEVER;
            int chosen = best;
            float at_chosen = 0;
            if (job->noise || job->log_prob) {
                lanes sum = all(0);
                for (int n = 0; n < used; n++) {
                    logits[n] -= top;
                    tempered[n] = power_of_two(logits[n] * scale);
                    sum += tempered[n];
                }
                float total = sum_lanes(sum);
                if (job->noise) {
                    float *weight = (float *)tempered;
                    if (job->temperature != 1.f)
                        for (int n = 0; n < used; n++) tempered[n] = power_of_two(logits[n] * (scale / job->temperature));
                    float whole = 0;
                    for (int i = 0; i < count; i++) whole += weight[i];
                    float u = job->noise[(t * job->batch + b) * job->rollouts + r];
                    float target = fminf(u * whole, whole * (1.f - 0x1p-23f)), reached = 0;
                    chosen = -1;
                    while (reached <= target && chosen + 1 < count) reached += weight[++chosen];
                }
                at_chosen = logit[chosen] * job->clip - logf(total);
            }
            total_log_prob += at_chosen;
            actions[t] = open[chosen];
            move(job, b, &s, actions[t]);
        }
        if (job->log_prob) job->log_prob[b * job->rollouts + r] = total_log_prob;
    }
    return FINE;
}

/* ------------------------------------------------------------------ scoring */

/* out[i] = sum over w of a[i][w] x[w]; rows of a are dim apart */
INLINE void dots(lanes *out, const float *a, int count, int width, const lanes *x) {
    int i = 0;
    for (; i + 8 <= count; i += 8) {
        lanes s[8];
        const float *row = a + i * DIM;
        for (int k = 0; k < 8; k++) s[k] = all(0);
        for (int w = 0; w < width; w++)
            for (int k = 0; k < 8; k++) s[k] += row[k * DIM + w] * x[w];
        for (int k = 0; k < 8; k++) out[i + k] = s[k];
    }
    for (; i < count; i++) {
        lanes s = all(0), z = all(0);
        for (int w = 0; w + 1 < width; w += 2) {
            s += a[i * DIM + w] * x[w];
            z += a[i * DIM + w + 1] * x[w + 1];
        }
        if (width % 2) s += a[i * DIM + width - 1] * x[width - 1];
        out[i] = s + z;
    }
}

#define BLOCK (WIDTH % 16 ? WIDTH % 8 ? 4 : 8 : 16)

/* out[w] = sum over i of c[i] a[i][w], width a multiple of BLOCK */
INLINE void mix(lanes *out, const lanes *c, const float *a, int count, int width) {
    for (int w = 0; w < width; w += BLOCK) {
        lanes s[BLOCK];
        for (int k = 0; k < BLOCK; k++) s[k] = all(0);
        for (int i = 0; i < count; i++)
            for (int k = 0; k < BLOCK; k++) s[k] += a[i * DIM + w + k] * c[i];
        for (int k = 0; k < BLOCK; k++) out[w + k] = s[k];
    }
}

/* g[node i][:] += sum over q of c[head][i][q] y[q][:]; heads of c are `apart` apart (0: one for all) */
INLINE void outer(float *g, const int32_t *node, const lanes *c, int apart, const float *y, int count) {
    int i = 0;
    for (; i + 2 <= count; i += 2) {
        chans *one = (chans *)(g + node[i] * DIM), *two = (chans *)(g + node[i + 1] * DIM);
        for (int v = 0; v < VECS; v += 4) {
            chans s[2][4];
            const int wide = VECS - v < 4 ? VECS - v : 4;
            for (int k = 0; k < wide; k++) s[0][k] = one[v + k], s[1][k] = two[v + k];
            for (int q = 0; q < LANES; q++)
                for (int k = 0; k < wide; k++) {
                    const float *weight = (const float *)(c + (v + k) / PER_HEAD * apart + i);
                    chans line = *(const chans *)(y + q * DIM + (v + k) * CHANNELS);
                    s[0][k] += weight[q] * line;
                    s[1][k] += weight[LANES + q] * line;
                }
            for (int k = 0; k < wide; k++) one[v + k] = s[0][k], two[v + k] = s[1][k];
        }
    }
    for (; i < count; i++) {
        chans *one = (chans *)(g + node[i] * DIM);
        for (int v = 0; v < VECS; v++) {
            const float *weight = (const float *)(c + v / PER_HEAD * apart + i);
            chans s = one[v];
            for (int q = 0; q < LANES; q++) s += weight[q] * *(const chans *)(y + q * DIM + v * CHANNELS);
            one[v] = s;
        }
    }
}

INLINE void turn(float *to, const lanes *from) { /* from [dim] lanes to [lanes][dim] */
    for (int d = 0; d < DIM; d++)
        for (int q = 0; q < LANES; q++) to[q * DIM + d] = from[d][q];
}

typedef struct {
    float *keys, *values, *logit_keys; /* [nodes, dim] */
    float *near_keys, *near_values, *near_logit_keys; /* those of the nodes of a tile */
    float *d_keys, *d_values;          /* [nodes, dim] */
    float *query, *seen, *d_seen, *d_query; /* [lanes, dim] */
    lanes *queries, *seens, *d_seens, *d_queries; /* [dim] */
    lanes *shares, *d_shares;          /* [heads, padded] */
    lanes *closed, *tanhs, *logits, *d_logits; /* [padded] */
    int32_t *node, *alive, *open;
    int64_t row[LANES][2];
    float scalar[LANES][2];
    int32_t action[LANES];             /* places in node */
} tile_t;

/* score `used` steps of a rollout over `count` nodes, gradients to place `to`; returns the sum of log-probabilities */
static float score_tile(const job_t *job, int64_t b, int64_t to, tile_t *t, int used, int count, float carried, int differentiate) {
    const int64_t nodes = job->nodes, padded = (nodes + LANES) / LANES * LANES;
    const int64_t rows = ROLES * (nodes + 1);
    const float glimpse_scale = 1.f / sqrtf(WIDTH), pointer_scale = 1.f / sqrtf(DIM);
    const float *bias = job->bias ? job->bias + b * rows * nodes : NULL;
    for (int i = 0; i < count; i++) {
        memcpy(t->near_keys + i * DIM, t->keys + t->node[i] * DIM, 4 * DIM);
        memcpy(t->near_values + i * DIM, t->values + t->node[i] * DIM, 4 * DIM);
        memcpy(t->near_logit_keys + i * DIM, t->logit_keys + t->node[i] * DIM, 4 * DIM);
    }
    /* queries, by step and by channel */
    for (int q = 0; q < LANES; q++) {
        chans *query = (chans *)(t->query + q * DIM);
        for (int v = 0; v < VECS; v++) query[v] = (chans){0};
        if (q >= used) continue;
        for (int64_t role = 0; role < ROLES; role++) {
            const chans *row = (const chans *)(job->queries + (b * rows + t->row[q][role]) * DIM);
            for (int v = 0; v < VECS; v++) query[v] += row[v];
        }
        for (int64_t k = 0; k < SCALARS; k++) {
            const chans *row = (const chans *)(job->weights + (b * SCALARS + k) * DIM);
            for (int v = 0; v < VECS; v++) query[v] += t->scalar[q][k] * row[v];
        }
        for (int v = 0; v < VECS; v++) query[v] *= glimpse_scale;
    }
    for (int d = 0; d < DIM; d++)
        for (int q = 0; q < LANES; q++) t->queries[d][q] = t->query[q * DIM + d];
    /* the glimpse */
    for (int h = 0; h < HEADS; h++) {
        lanes *share = t->shares + h * padded, most = all(NEVER), sum = all(0);
        dots(share, t->near_keys + h * WIDTH, count, WIDTH, t->queries + h * WIDTH);
        for (int i = 0; i < count; i++) {
            share[i] = share[i] * LOG2E + t->closed[i];
            most = maximum(most, share[i]);
        }
        for (int i = 0; i < count; i++) {
            share[i] = power_of_two(share[i] - most);
            sum += share[i];
        }
        sum = 1.f / sum;
        for (int i = 0; i < count; i++) share[i] *= sum;
        mix(t->seens + h * WIDTH, share, t->near_values + h * WIDTH, count, WIDTH);
    }
    /* the pointer */
    dots(t->tanhs, t->near_logit_keys, count, DIM, t->seens);
    lanes most = all(NEVER), sum = all(0);
    for (int i = 0; i < count; i++) {
        t->tanhs[i] = hyperbolic_tangent(t->tanhs[i] * pointer_scale);
        lanes x = t->tanhs[i];
        if (bias)
            for (int q = 0; q < used; q++)
                for (int64_t role = 0; role < ROLES; role++) x[q] += bias[t->row[q][role] * nodes + t->node[i]];
        t->logits[i] = job->clip * x + t->closed[i];
        most = maximum(most, t->logits[i]);
    }
    for (int i = 0; i < count; i++) {
        t->d_logits[i] = power_of_two((t->logits[i] - most) * LOG2E);
        sum += t->d_logits[i];
    }
    float found = 0;
    for (int q = 0; q < used; q++) found += t->logits[t->action[q]][q] - most[q] - logf(sum[q]);
    if (!differentiate) return found;

    /* backward: the logits */
    lanes weight = all(0);
    for (int q = 0; q < used; q++) weight[q] = carried;
    sum = weight / sum;
    for (int i = 0; i < count; i++) t->d_logits[i] *= -sum;
    for (int q = 0; q < used; q++) t->d_logits[t->action[q]][q] += carried;
    if (bias) {
        float *d_bias = job->d_bias + to * rows * nodes;
        for (int q = 0; q < used; q++)
            for (int64_t role = 0; role < ROLES; role++) {
                float *row = d_bias + t->row[q][role] * nodes;
                for (int i = 0; i < count; i++) row[t->node[i]] += job->clip * t->d_logits[i][q];
            }
    }
    for (int i = 0; i < count; i++)
        t->d_logits[i] *= (1.f - t->tanhs[i] * t->tanhs[i]) * (job->clip * pointer_scale);
    /* the pointer's keys and the glimpse */
    turn(t->seen, t->seens);
    outer(job->d_logit_keys + to * nodes * DIM, t->node, t->d_logits, 0, t->seen, count);
    mix(t->d_seens, t->d_logits, t->near_logit_keys, count, DIM);
    turn(t->d_seen, t->d_seens);
    outer(t->d_values, t->node, t->shares, (int)padded, t->d_seen, count);
    for (int h = 0; h < HEADS; h++) {
        lanes *share = t->shares + h * padded, *d_share = t->d_shares + h * padded, mean = all(0);
        dots(d_share, t->near_values + h * WIDTH, count, WIDTH, t->d_seens + h * WIDTH);
        for (int i = 0; i < count; i++) mean += share[i] * d_share[i];
        for (int i = 0; i < count; i++) d_share[i] = share[i] * (d_share[i] - mean);
        mix(t->d_queries + h * WIDTH, d_share, t->near_keys + h * WIDTH, count, WIDTH);
    }
    outer(t->d_keys, t->node, t->d_shares, (int)padded, t->query, count); /* the query is scaled already */
    turn(t->d_query, t->d_queries);
    float *d_queries = job->d_queries + to * rows * DIM;
    for (int q = 0; q < used; q++) {
        chans *d_query = (chans *)(t->d_query + q * DIM);
        for (int v = 0; v < VECS; v++) d_query[v] *= glimpse_scale;
        for (int64_t role = 0; role < ROLES; role++) {
            chans *row = (chans *)(d_queries + t->row[q][role] * DIM);
            for (int v = 0; v < VECS; v++) row[v] += d_query[v];
        }
        for (int64_t k = 0; k < SCALARS; k++) {
            chans *row = (chans *)(job->d_weights + (to * SCALARS + k) * DIM);
            for (int v = 0; v < VECS; v++) row[v] += t->scalar[q][k] * d_query[v];
        }
    }
    return found;
}

static int gradient_of(const job_t *job, int64_t b, int64_t part) {
    const int64_t nodes = job->nodes, padded = (nodes + LANES) / LANES * LANES;
    const int depot = job->has_depot != 0, differentiate = job->carried != NULL;
    if (!reserve(4 * (7 * (size_t)nodes * DIM + 8 * LANES * DIM + (2 * HEADS + 4) * (size_t)padded * LANES + 3 * padded) + 8192))
        return 0;
    tile_t t;
    t.logit_keys = (float *)(job->logit_keys + b * nodes * DIM);
    float **per_node[] = {&t.keys, &t.values, &t.near_keys, &t.near_values, &t.near_logit_keys, &t.d_keys, &t.d_values};
    for (int k = 0; k < 7; k++) *per_node[k] = TAKE(float, nodes * DIM);
    float **per_step[] = {&t.query, &t.seen, &t.d_seen, &t.d_query};
    for (int k = 0; k < 4; k++) *per_step[k] = TAKE(float, LANES * DIM);
    lanes **per_channel[] = {&t.queries, &t.seens, &t.d_seens, &t.d_queries};
    for (int k = 0; k < 4; k++) *per_channel[k] = TAKE(lanes, DIM);
    t.shares = TAKE(lanes, HEADS * padded), t.d_shares = TAKE(lanes, HEADS * padded);
    lanes **per_place[] = {&t.closed, &t.tanhs, &t.logits, &t.d_logits};
    for (int k = 0; k < 4; k++) *per_place[k] = TAKE(lanes, padded);
    t.node = TAKE(int32_t, padded), t.alive = TAKE(int32_t, padded), t.open = TAKE(int32_t, padded);
    by_node(t.keys, job->keys + b * nodes * DIM, nodes);
    by_node(t.values, job->values + b * nodes * DIM, nodes);
    memset(t.d_keys, 0, 4 * (size_t)(nodes * DIM));
    memset(t.d_values, 0, 4 * (size_t)(nodes * DIM));
    int32_t *place = t.open; /* of each node in t.node */

    const int64_t to = part * job->batch + b;
    for (int64_t r = part * job->rollouts / job->parts; r < (part + 1) * job->rollouts / job->parts; r++) {
        const int64_t *actions = job->actions + (b * job->rollouts + r) * job->steps;
        const float carried = differentiate ? job->carried[b * job->rollouts + r] : 0;
        if (differentiate && carried == 0) continue;
        float total = 0;
        int used = 0, count = 0;
        state_t s;
        s.alive = t.alive;
        begin(job, b, &s);
        for (int64_t step = 0; step < job->steps && !s.done; step++) {
            int certain = !depot && s.open == 1;
            if (step >= job->given && !certain) {
                if (used == 0) { /* a tile begins: its nodes are those that are open now */
                    count = 0;
                    if (depot) t.node[count++] = 0;
                    for (int i = 0; i < s.open; i++) t.node[count++] = s.alive[i];
                    for (int i = 0; i < count; i++) place[t.node[i]] = i, t.closed[i] = all(0);
                }
                for (int i = 0; i < count; i++) t.closed[i][used] = NEVER;
                if (depot) {
                    const double *demand = job->demand + b * nodes;
                    double room = s.load + job->slack[b];
                    if (s.current != 0) t.closed[0][used] = 0;
                    for (int i = 0; i < s.open; i++)
                        if (demand[s.alive[i]] <= room) t.closed[place[s.alive[i]]][used] = 0;
                } else {
                    for (int i = 0; i < s.open; i++) t.closed[place[s.alive[i]]][used] = 0;
                }
                for (int64_t role = 0; role < ROLES; role++)
                    t.row[used][role] = role * (nodes + 1) + row_of(job, &s, (int)role);
                for (int64_t k = 0; k < SCALARS; k++) t.scalar[used][k] = scalar_of(job, b, &s, (int)k);
                t.action[used++] = place[actions[step]];
            }
            move(job, b, &s, actions[step]);
            if (used == LANES || (used && (s.done || step + 1 == job->steps || (!depot && s.open == 1)))) {
                total += score_tile(job, b, to, &t, used, count, carried, differentiate);
                used = 0;
            }
        }
        if (job->log_prob) job->log_prob[b * job->rollouts + r] = total;
    }
    if (differentiate) {
        by_head(job->d_keys + to * nodes * DIM, t.d_keys, nodes);
        by_head(job->d_values + to * nodes * DIM, t.d_values, nodes);
    }
    return 1;
}

/* Each thread calls one of these once for the same job. */
extern "C" int act(job_t *job) {
    const watch::time_point begun = watch::now();
    int end = FINE;
    for (int64_t unit; end == FINE && (unit = job->next.fetch_add(1)) < job->batch * job->parts;)
        end = rollouts_of(job, unit / job->parts, unit % job->parts, begun);
    return end;
}

extern "C" int score(job_t *job) {
    for (int64_t unit; (unit = job->next.fetch_add(1)) < job->batch * job->parts;)
        if (!gradient_of(job, unit / job->parts, unit % job->parts)) return NO_MEMORY;
    return FINE;
}
