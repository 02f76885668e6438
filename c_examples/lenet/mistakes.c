#include "mistakes.h"

#include "svg.h"

enum { COLUMNS = 8, DIGIT = 84, CELL_WIDTH = 100, CELL_HEIGHT = 132, TOP = 80, SIDE = 24 };
enum { MAX_SHOWN = 200, SHADES = 16 };

static unsigned shade_of(unsigned char pixel)
{
    return pixel * SHADES / 256u;
}

/* The pixels of one shade of grey as one path, made of their horizontal runs. */
static void draw_shade(FILE *file, const unsigned char *image, size_t height, size_t width,
                       unsigned shade)
{
    const unsigned grey = 255 - 255 * shade / (SHADES - 1);
    fprintf(file, "<path fill=\"#%02x%02x%02x\" d=\"", grey, grey, grey);
    for (size_t row = 0; row < height; row++) {
        size_t run = 0; /* pixels of this shade just before the column */
        for (size_t column = 0; column <= width; column++) {
            if (column < width && shade_of(image[row * width + column]) == shade) {
                run++;
            } else if (run > 0) {
                fprintf(file, "M%zu %zuh%zuv1h-%zuz", column - run, row, run, run);
                run = 0;
            }
        }
    }
    fputs("\"/>\n", file);
}

static void draw_mistake(FILE *file, size_t place, const struct mistake *mistake, size_t height,
                         size_t width)
{
    fprintf(file,
            "<g transform=\"translate(%zu %zu)\">\n"
            "<rect width=\"%d\" height=\"%d\" fill=\"#fff\" stroke=\"" SVG_GRID "\"/>\n"
            "<g transform=\"scale(%g %g)\" shape-rendering=\"crispEdges\">\n",
            SIDE + place % COLUMNS * CELL_WIDTH, TOP + place / COLUMNS * CELL_HEIGHT, DIGIT, DIGIT,
            (double)DIGIT / (double)width, (double)DIGIT / (double)height);
    for (unsigned shade = 1; shade < SHADES; shade++) {
        draw_shade(file, mistake->image, height, width, shade);
    }
    fprintf(file,
            "</g>\n"
            "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\" font-size=\"16\" font-weight=\"bold\">"
            "<tspan fill=\"" SVG_GREEN "\">%u</tspan>"
            "<tspan fill=\"" SVG_MUTED "\" font-weight=\"normal\"> &#8594; </tspan>"
            "<tspan fill=\"" SVG_RED "\">%u</tspan>"
            "<tspan fill=\"" SVG_MUTED "\" font-size=\"12\" font-weight=\"normal\" dx=\"6\">%.0f %%"
            "</tspan></text>\n"
            "</g>\n",
            DIGIT / 2, DIGIT + 20, mistake->label, mistake->prediction, 100 * mistake->probability);
}

bool mistakes_write(const char *path, size_t height, size_t width, const struct mistake *mistakes,
                    size_t count, size_t tested)
{
    const size_t shown = count < MAX_SHOWN ? count : MAX_SHOWN;
    const size_t rows = (shown + COLUMNS - 1) / COLUMNS;
    char title[96], first[48] = "";
    if (shown < count) {
        snprintf(first, sizeof first, " (the first %zu)", shown);
    }
    snprintf(title, sizeof title, "%zu of %zu digits misread%s", count, tested, first);

    FILE *file = svg_open(path, 2 * SIDE + (COLUMNS - 1) * CELL_WIDTH + DIGIT,
                          TOP + (int)rows * CELL_HEIGHT, title,
                          "<tspan fill=\"" SVG_GREEN "\">label</tspan> &#8594; "
                          "<tspan fill=\"" SVG_RED "\">what it was taken for</tspan>, "
                          "and how sure the network was of it");
    if (file == NULL) {
        return false;
    }
    for (size_t i = 0; i < shown; i++) {
        draw_mistake(file, i, &mistakes[i], height, width);
    }
    return svg_close(file, path);
}
