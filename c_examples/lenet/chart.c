#include "chart.h"

#include "svg.h"

#include <math.h>

enum { WIDTH = 860, HEIGHT = 640, LEFT = 76, PLOT_WIDTH = WIDTH - LEFT - 64 };

/* One plot: a rectangle on the page, and the values at its edges. */
struct panel {
    FILE *file;
    double top, height;
    double last_image;
    double low, high;
    bool logarithmic;
};

static double x_of(const struct panel *panel, double images)
{
    return LEFT + PLOT_WIDTH * images / panel->last_image;
}

static double y_of(const struct panel *panel, double value)
{
    const double low = panel->low, high = panel->high;
    const double clamped = fmin(fmax(value, low), high);
    const double share = panel->logarithmic ? log(clamped / low) / log(high / low)
                                            : (clamped - low) / (high - low);
    return panel->top + panel->height * (1 - share);
}

static void draw_horizontal_tick(const struct panel *panel, double value, const char *label)
{
    const double y = y_of(panel, value);
    fprintf(panel->file,
            "<path d=\"M%d %.1fh%d\" stroke=\"" SVG_GRID "\"/>"
            "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\" fill=\"" SVG_MUTED "\">%s</text>\n",
            LEFT, y, PLOT_WIDTH, LEFT - 10, y + 4.5, label);
}

/* Lines at 1, 2 and 5 times the powers of ten, or only at these when the span is long. */
static void draw_logarithmic_ticks(const struct panel *panel)
{
    const double decades = log10(panel->high / panel->low);
    for (int exponent = -9; exponent <= 9; exponent++) {
        for (int digit = 1; digit <= 5; digit += digit == 1 ? 1 : 3) {
            const double value = digit * pow(10, exponent);
            const bool inside = value >= panel->low * 0.999 && value <= panel->high * 1.001;
            if (inside && (digit == 1 || decades < 3.5)) {
                char label[32];
                snprintf(label, sizeof label, "%g", value);
                draw_horizontal_tick(panel, value, label);
            }
        }
    }
}

/* The next of 1, 2, 5, 10, ... that is at least (or, `below`, at most) the value. */
static double round_step(double value, bool below)
{
    const double decade = pow(10, floor(log10(value)));
    const double steps[] = {1, 2, 5, 10};
    double rounded = decade;
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        const double step = steps[i] * decade;
        if (below ? step <= value : rounded < value) {
            rounded = step;
        }
    }
    return rounded;
}

static void draw_frame(const struct panel *panel, const char *title, bool with_labels)
{
    const double bottom = panel->top + panel->height;
    fprintf(panel->file, "<text x=\"%d\" y=\"%.1f\" font-weight=\"bold\">%s</text>\n", LEFT,
            panel->top - 14, title);
    const double step = round_step(panel->last_image / 8, false);
    for (double images = 0; images <= panel->last_image * 1.0001; images += step) {
        const double x = x_of(panel, images);
        fprintf(panel->file, "<path d=\"M%.1f %.1fV%.1f\" stroke=\"" SVG_GRID "\"/>\n", x,
                panel->top, bottom);
        if (with_labels) {
            fprintf(panel->file,
                    "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\" fill=\"" SVG_MUTED
                    "\">%.0f</text>\n",
                    x, bottom + 20, images);
        }
    }
    if (with_labels) {
        fprintf(panel->file,
                "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">images seen</text>\n",
                LEFT + PLOT_WIDTH / 2.0, bottom + 44);
    }
    fprintf(panel->file, "<path d=\"M%d %.1fV%.1fh%d\" fill=\"none\" stroke=\"" SVG_MUTED "\"/>\n",
            LEFT, panel->top, bottom, PLOT_WIDTH);
}

static void draw_line(const struct panel *panel, const struct chart_series *series,
                      const char *colour, double width)
{
    fprintf(panel->file,
            "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"%g\" stroke-linejoin=\"round\" "
            "points=\"",
            colour, width);
    for (size_t i = 0; i < series->count; i++) {
        fprintf(panel->file, "%.1f,%.1f ", x_of(panel, series->points[i].images),
                y_of(panel, series->points[i].value));
    }
    fputs("\"/>\n", panel->file);
}

static void draw_legend_entry(const struct panel *panel, double x, const char *colour, double width,
                              const char *name)
{
    fprintf(panel->file,
            "<path d=\"M%.1f %.1fh24\" stroke=\"%s\" stroke-width=\"%g\"/>"
            "<text x=\"%.1f\" y=\"%.1f\">%s</text>\n",
            x, panel->top - 18.5, colour, width, x + 31, panel->top - 14, name);
}

/* More points than this cannot be told apart. */
enum { MAX_POINTS = 1000 };

/* Each point of `thinned` is the mean of as many neighbours as it takes. */
static void thin_out(const struct chart_series *series, struct chart_series *thinned)
{
    const size_t group = (series->count + MAX_POINTS - 1) / MAX_POINTS;
    thinned->count = 0;
    for (size_t start = 0; start < series->count; start += group) {
        const size_t end = start + group < series->count ? start + group : series->count;
        double sum = 0;
        for (size_t i = start; i < end; i++) {
            sum += series->points[i].value;
        }
        thinned->points[thinned->count++] = (struct chart_point){
            .images = series->points[end - 1].images, .value = sum / (double)(end - start),
        };
    }
}

/* The mean over a window around each point, shorter towards the ends. */
static void smooth(const struct chart_series *series, struct chart_series *smoothed)
{
    const size_t reach = series->count / 60;
    smoothed->count = series->count;
    for (size_t i = 0; i < series->count; i++) {
        size_t half = i < reach ? i : reach;
        half = series->count - 1 - i < half ? series->count - 1 - i : half;
        double sum = 0;
        for (size_t j = i - half; j <= i + half; j++) {
            sum += series->points[j].value;
        }
        smoothed->points[i] = (struct chart_point){
            .images = series->points[i].images, .value = sum / (double)(2 * half + 1),
        };
    }
}

static void draw_loss(FILE *file, double last_image, const struct chart_series *loss)
{
    struct chart_point step_points[MAX_POINTS], smoothed_points[MAX_POINTS];
    struct chart_series steps = {.points = step_points}, smoothed = {.points = smoothed_points};
    thin_out(loss, &steps);
    smooth(&steps, &smoothed);

    double smallest = 1, largest = 1e-6;
    for (size_t i = 0; i < smoothed.count; i++) {
        smallest = fmin(smallest, smoothed.points[i].value);
        largest = fmax(largest, steps.points[i].value);
    }
    const struct panel panel = {
        .file = file, .top = 108, .height = 250, .last_image = last_image, .logarithmic = true,
        .low = round_step(fmax(smallest / 2, 1e-6), true),
        .high = round_step(fmin(largest, 1e6), false),
    };
    draw_logarithmic_ticks(&panel);
    draw_frame(&panel, "Training loss", false);
    draw_legend_entry(&panel, 540, SVG_PALE_BLUE, 2, "each step");
    draw_legend_entry(&panel, 670, SVG_BLUE, 2.5, "smoothed");
    draw_line(&panel, &steps, SVG_PALE_BLUE, 1);
    draw_line(&panel, &smoothed, SVG_BLUE, 2.5);
}

static void draw_accuracy(FILE *file, double last_image, const struct chart_series *accuracy)
{
    /* The axis starts where it shows most. */
    const struct { double low, tick; } axes[] = {
        {0.95, 0.01}, {0.9, 0.02}, {0.8, 0.05}, {0.5, 0.1}, {0, 0.2},
    };
    double lowest = 1;
    for (size_t i = 0; i < accuracy->count; i++) {
        lowest = fmin(lowest, accuracy->points[i].value);
    }
    size_t axis = 0;
    while (axes[axis].low > lowest) {
        axis++;
    }

    const struct panel panel = {
        .file = file, .top = 412, .height = 160, .last_image = last_image,
        .low = axes[axis].low, .high = 1,
    };
    for (double value = panel.low; value < 1 + axes[axis].tick / 2; value += axes[axis].tick) {
        char label[32];
        snprintf(label, sizeof label, "%.2f", value);
        draw_horizontal_tick(&panel, value, label);
    }
    draw_frame(&panel, "Test accuracy", true);
    draw_line(&panel, accuracy, SVG_GREEN, 2.5);
    for (size_t i = 0; i < accuracy->count; i++) {
        fprintf(file, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\" fill=\"" SVG_GREEN "\"/>\n",
                x_of(&panel, accuracy->points[i].images), y_of(&panel, accuracy->points[i].value));
    }
    const struct chart_point *last = &accuracy->points[accuracy->count - 1];
    fprintf(file,
            "<text x=\"%.1f\" y=\"%.1f\" font-weight=\"bold\" fill=\"" SVG_GREEN "\">%.3f</text>\n",
            x_of(&panel, last->images) + 9, y_of(&panel, last->value) + 4.5, last->value);
}

bool chart_write(const char *path, const char *subtitle, double last_image,
                 const struct chart_series *loss, const struct chart_series *accuracy)
{
    FILE *file = svg_open(path, WIDTH, HEIGHT, "LeNet-5 learns to read digits", subtitle);
    if (file == NULL) {
        return false;
    }
    draw_loss(file, last_image, loss);
    draw_accuracy(file, last_image, accuracy);
    return svg_close(file, path);
}
