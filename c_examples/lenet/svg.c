#include "svg.h"

#include <errno.h>
#include <string.h>

FILE *svg_open(const char *path, int width, int height, const char *title, const char *subtitle)
{
    FILE *file = fopen(path, "w");
    if (file == NULL) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return NULL;
    }
    fprintf(file,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
            "viewBox=\"0 0 %d %d\" font-family=\"Helvetica, Arial, 'Liberation Sans', "
            "'DejaVu Sans', sans-serif\" font-size=\"13\" fill=\"" SVG_TEXT "\">\n"
            "<title>%s</title>\n"
            "<rect width=\"100%%\" height=\"100%%\" fill=\"#fcfcfd\"/>\n"
            "<text x=\"24\" y=\"34\" font-size=\"19\" font-weight=\"bold\">%s</text>\n"
            "<text x=\"24\" y=\"56\" fill=\"" SVG_MUTED "\">%s</text>\n",
            width, height, width, height, title, title, subtitle);
    return file;
}

bool svg_close(FILE *file, const char *path)
{
    fputs("</svg>\n", file);
    const bool failed = ferror(file) != 0;
    if (fclose(file) != 0 || failed) {
        fprintf(stderr, "%s: cannot be written: %s\n", path, strerror(errno));
        return false;
    }
    return true;
}
