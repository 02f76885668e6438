/* training.svg: how the loss falls and the test accuracy rises with the images seen. */
#ifndef LENET_CHART_H
#define LENET_CHART_H

#include <stdbool.h>
#include <stddef.h>

struct chart_point {
    double images; /* seen in training by then */
    double value;
};

struct chart_series {
    struct chart_point *points; /* in order; not empty */
    size_t count;
};

/* `last_image` is where the chart ends. False after a message on stderr. */
bool chart_write(const char *path, const char *subtitle, double last_image,
                 const struct chart_series *loss, const struct chart_series *accuracy);

#endif
