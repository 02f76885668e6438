/* What the SVG pictures share: a page with a title, a palette, and a close that notices when the
   disk was full. */
#ifndef LENET_SVG_H
#define LENET_SVG_H

#include <stdbool.h>
#include <stdio.h>

#define SVG_TEXT "#1f2933"
#define SVG_MUTED "#616e7c"
#define SVG_GRID "#e4e7eb"
#define SVG_BLUE "#2066a8"
#define SVG_PALE_BLUE "#b9d3ea"
#define SVG_GREEN "#1f7a4d"
#define SVG_RED "#b3261e"

/* A page with a light background; NULL after a message on stderr. */
FILE *svg_open(const char *path, int width, int height, const char *title, const char *subtitle);

/* Ends the page. False after a message when anything could not be written. */
bool svg_close(FILE *file, const char *path);

#endif
