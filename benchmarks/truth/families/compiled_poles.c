/* The mechanics of reinforce.py's poles, many at once: what they take when no Python runs. */
#include <math.h>

/* states: (poles, 4) place, speed, angle, turn; actions: (poles) 0 or 1; rewards: (poles). */
void advance(float *states, const float *actions, float *rewards, int poles, int substeps) {
    for (int pole = 0; pole < poles; pole++) {
        float *state = states + 4 * pole;
        double place = state[0], speed = state[1], angle = state[2], turn = state[3];
        double force = actions[pole] > 0 ? 10.0 : -10.0;
        for (int i = 0; i < substeps; i++) {
            double sine = sin(angle), cosine = cos(angle);
            double push = (force + 0.05 * turn * turn * sine) / 1.1;
            double swing =
                (9.8 * sine - cosine * push) / (0.5 * (4.0 / 3 - 0.1 * cosine * cosine / 1.1));
            place += 0.005 * speed;
            speed += 0.005 * push;
            angle += 0.005 * turn;
            turn += 0.005 * swing;
        }
        rewards[pole] = (float)cos(angle);
        int stands = fabs(angle) < 1;
        state[0] = stands ? (float)place : 0;
        state[1] = stands ? (float)speed : 0;
        state[2] = stands ? (float)angle : 0;
        state[3] = stands ? (float)turn : 0;
    }
}
