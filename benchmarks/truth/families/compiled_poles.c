/* The mechanics of reinforce.py's poles, many at once: what they take when no Python runs. */
#include <math.h>

#define BLOCK 64

/* states: (poles, 4) place, speed, angle, turn; actions: (poles) 0 or 1; rewards: (poles).
   Poles are moved in blocks, all of a block by one small time after the other, so that the
   compiler can calculate several at once. */
void advance(float *states, const float *actions, float *rewards, int poles, int substeps) {
    for (int first = 0; first < poles; first += BLOCK) {
        int count = poles - first < BLOCK ? poles - first : BLOCK;
        float place[BLOCK], speed[BLOCK], angle[BLOCK], turn[BLOCK], force[BLOCK];
        for (int i = 0; i < count; i++) {
            const float *state = states + 4 * (first + i);
            place[i] = state[0], speed[i] = state[1], angle[i] = state[2], turn[i] = state[3];
            force[i] = actions[first + i] > 0 ? 10.0f : -10.0f;
        }
        for (int step = 0; step < substeps; step++) {
            for (int i = 0; i < count; i++) {
                float sine = sinf(angle[i]), cosine = cosf(angle[i]);
                float push = (force[i] + 0.05f * turn[i] * turn[i] * sine) / 1.1f;
                float swing = (9.8f * sine - cosine * push)
                              / (0.5f * (4.0f / 3 - 0.1f * cosine * cosine / 1.1f));
                place[i] += 0.005f * speed[i];
                speed[i] += 0.005f * push;
                angle[i] += 0.005f * turn[i];
                turn[i] += 0.005f * swing;
            }
        }
        for (int i = 0; i < count; i++) {
            float *state = states + 4 * (first + i);
            int stands = fabsf(angle[i]) < 1;
            rewards[first + i] = cosf(angle[i]);
            state[0] = stands ? place[i] : 0;
            state[1] = stands ? speed[i] : 0;
            state[2] = stands ? angle[i] : 0;
            state[3] = stands ? turn[i] : 0;
        }
    }
}
