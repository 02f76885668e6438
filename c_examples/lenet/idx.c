#include "idx.h"

#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* An IDX file is a magic number (two zero bytes, 8 for unsigned bytes, the number of dimensions),
   the dimensions as big-endian 32-bit integers, and the bytes. */
enum { MAGIC_IMAGES = 0x00000803, MAGIC_LABELS = 0x00000801, MAX_DIMENSIONS = 3 };

static uint32_t big_endian(const unsigned char *bytes)
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

static void *fail(const char *path, const char *problem)
{
    fprintf(stderr, "%s: %s\n", path, problem);
    return NULL;
}

static void *fail_reading(FILE *file, const char *path)
{
    return fail(path, ferror(file) ? strerror(errno) : "truncated: it ends within the header");
}

/* How many bytes follow the current position; -1 when that cannot be told. */
static long bytes_left(FILE *file)
{
    const long position = ftell(file);
    if (position < 0 || fseek(file, 0, SEEK_END) != 0) {
        return -1;
    }
    const long end = ftell(file);
    return end < 0 || fseek(file, position, SEEK_SET) != 0 ? -1 : end - position;
}

/* The contents of an open IDX file, for the caller to free; NULL after a message. */
static unsigned char *read_open_file(FILE *file, const char *path, uint32_t magic, size_t *sizes)
{
    const size_t dimensions = magic & 0xff;
    unsigned char header[4 * (1 + MAX_DIMENSIONS)];
    if (fread(header, 4, 1, file) != 1) {
        return fail_reading(file, path);
    }
    if (header[0] == 0x1f && header[1] == 0x8b) {
        return fail(path, "compressed by gzip: unpack it first");
    }
    const uint32_t found = big_endian(header);
    if (found != magic) {
        fprintf(stderr, "%s: not an IDX file of %s: it starts with 0x%08lx, not 0x%08lx\n", path,
                magic == MAGIC_IMAGES ? "images" : "labels", (unsigned long)found,
                (unsigned long)magic);
        return NULL;
    }
    if (fread(header + 4, 4 * dimensions, 1, file) != 1) {
        return fail_reading(file, path);
    }

    /* The dimensions are checked against the file's size before memory is asked for. */
    const long left = bytes_left(file);
    if (left < 0) {
        return fail(path, "its size cannot be told: not a plain file?");
    }
    size_t size = 1;
    for (size_t i = 0; i < dimensions; i++) {
        sizes[i] = big_endian(header + 4 * (1 + i));
        if (sizes[i] == 0) {
            return fail(path, "one of its dimensions is 0");
        }
        if (sizes[i] > (size_t)LONG_MAX / size) {
            return fail(path, "its dimensions are too large");
        }
        size *= sizes[i];
    }
    if ((size_t)left != size) {
        fprintf(stderr, "%s: %s: %zu bytes of %s expected after the header, %ld found\n", path,
                (size_t)left < size ? "truncated" : "too long", size,
                magic == MAGIC_IMAGES ? "images" : "labels", left);
        return NULL;
    }

    unsigned char *bytes = malloc(size);
    if (bytes == NULL) {
        return fail(path, "out of memory");
    }
    if (fread(bytes, 1, size, file) != size) {
        free(bytes);
        return fail(path, "it cannot be read to its end");
    }
    return bytes;
}

static unsigned char *read_file(const char *path, uint32_t magic, size_t *sizes)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        return fail(path, strerror(errno));
    }
    unsigned char *bytes = read_open_file(file, path, magic, sizes);
    fclose(file);
    return bytes;
}

bool idx_read(const char *images_path, const char *labels_path, unsigned classes,
              struct idx_dataset *dataset)
{
    *dataset = (struct idx_dataset){0};
    size_t sizes[MAX_DIMENSIONS] = {0}, label_count = 0;
    unsigned char *images = read_file(images_path, MAGIC_IMAGES, sizes);
    unsigned char *labels = NULL;
    if (images != NULL) {
        labels = read_file(labels_path, MAGIC_LABELS, &label_count);
    }
    bool valid = labels != NULL;

    if (valid && sizes[0] != label_count) {
        fprintf(stderr, "%s: %zu labels for the %zu images of %s\n", labels_path, label_count,
                sizes[0], images_path);
        valid = false;
    }
    for (size_t i = 0; valid && i < label_count; i++) {
        if (labels[i] >= classes) {
            fprintf(stderr, "%s: label %zu is %d; labels go from 0 to %u\n", labels_path, i,
                    labels[i], classes - 1);
            valid = false;
        }
    }
    if (!valid) {
        free(images);
        free(labels);
        return false;
    }
    *dataset = (struct idx_dataset){
        .count = sizes[0], .height = sizes[1], .width = sizes[2],
        .images = images, .labels = labels,
    };
    return true;
}

void idx_free(struct idx_dataset *dataset)
{
    free(dataset->images);
    free(dataset->labels);
    *dataset = (struct idx_dataset){0};
}

void idx_load(const struct idx_dataset *dataset, size_t index, int down, int right, float *image)
{
    const int height = (int)dataset->height, width = (int)dataset->width;
    const unsigned char *pixels = dataset->images + index * dataset->height * dataset->width;
    for (int row = 0; row < height; row++) {
        for (int column = 0; column < width; column++) {
            const int from_row = row - down, from_column = column - right;
            const bool inside =
                from_row >= 0 && from_row < height && from_column >= 0 && from_column < width;
            *image++ = inside ? (float)pixels[from_row * width + from_column] / 255.0f : 0.0f;
        }
    }
}
