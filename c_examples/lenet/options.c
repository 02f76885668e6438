#include "options.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_help(const struct options *defaults)
{
    printf("Trains LeNet-5 to read handwritten digits, with cnnkern's kernels.\n"
           "\n"
           "Usage: train_lenet [options]\n"
           "\n"
           "  --data DIR     folder with the four MNIST files, unpacked:\n"
           "                 {train,t10k}-{images-idx3,labels-idx1}-ubyte\n"
           "                 (default: %s)\n"
           "  --output DIR   where training.svg and mistakes.svg go; made if missing\n"
           "                 (default: the current folder)\n"
           "  --epochs N     passes over the training images (default: %" PRIu64 ")\n"
           "  --batch N      images in one step (default: %" PRIu64 ")\n"
           "  --threads N    0 = as many as there are cores, or as CNNKERN_NUM_THREADS says\n"
           "                 (default: %" PRIu64 ")\n"
           "  --seed N       of the first weights and the images' order (default: %" PRIu64 ");\n"
           "                 the same seed gives the same weights for any --threads\n"
           "  --algorithm NAME  of the convolutions: auto, gemm, winograd or reference\n"
           "                 (default: auto)\n"
           "  --benchmark    prints the best time of a training step at some batch sizes instead\n"
           "  --help         this text\n"
           "\n"
           "Exit status: 0 when all is done, 1 when something failed, 2 for wrong options.\n",
           defaults->data, defaults->epochs, defaults->batch, defaults->threads, defaults->seed);
}

static void wrong(const char *problem, const char *argument)
{
    fprintf(stderr, "train_lenet: %s: %s (see --help)\n", argument, problem);
    exit(2);
}

static uint64_t parse_number(const char *name, const char *text, uint64_t least, uint64_t most)
{
    errno = 0;
    char *end = NULL;
    const uintmax_t number = strtoumax(text, &end, 10);
    /* strtoumax would take signs and leading blanks. */
    const bool digits = text[0] >= '0' && text[0] <= '9' && *end == '\0';
    if (!digits || errno != 0 || number < least || number > most) {
        fprintf(stderr, "train_lenet: %s: '%s' is not a number from %" PRIu64 " to %" PRIu64
                        " (see --help)\n", name, text, least, most);
        exit(2);
    }
    return number;
}

static cnnkern_algorithm parse_algorithm(const char *name, const char *text)
{
    static const struct { const char *text; cnnkern_algorithm algorithm; } KNOWN[] = {
        {"auto", CNNKERN_ALGORITHM_AUTO},
        {"gemm", CNNKERN_ALGORITHM_GEMM},
        {"winograd", CNNKERN_ALGORITHM_WINOGRAD},
        {"reference", CNNKERN_ALGORITHM_REFERENCE},
    };
    for (size_t i = 0; i < sizeof KNOWN / sizeof KNOWN[0]; i++) {
        if (strcmp(text, KNOWN[i].text) == 0) {
            return KNOWN[i].algorithm;
        }
    }
    fprintf(stderr, "train_lenet: %s: '%s' is not auto, gemm, winograd or reference (see --help)\n",
            name, text);
    exit(2);
}

struct options options_parse(int argc, char **argv, struct options defaults)
{
    struct options parsed = defaults;
    const char *algorithm = NULL;
    /* Each option is a text or a number with its range. */
    const struct {
        const char *name;
        const char **text;
        uint64_t *number, least, most;
    } known[] = {
        {"--data", &parsed.data, NULL, 0, 0},
        {"--output", &parsed.output, NULL, 0, 0},
        {"--epochs", NULL, &parsed.epochs, 1, 1000},
        {"--batch", NULL, &parsed.batch, 1, 10000},
        {"--threads", NULL, &parsed.threads, 0, 1024},
        {"--seed", NULL, &parsed.seed, 0, UINT64_MAX},
        {"--algorithm", &algorithm, NULL, 0, 0},
    };
    enum { KNOWN = sizeof known / sizeof known[0] };

    for (int i = 1; i < argc; i++) {
        const char *argument = argv[i];
        if (strcmp(argument, "--help") == 0 || strcmp(argument, "-h") == 0) {
            print_help(&defaults);
            exit(EXIT_SUCCESS);
        }
        if (strcmp(argument, "--benchmark") == 0) {
            parsed.benchmark = true;
            continue;
        }
        /* --name value or --name=value */
        const size_t length = strcspn(argument, "=");
        size_t option = 0;
        while (option < KNOWN && (strlen(known[option].name) != length ||
                                  strncmp(known[option].name, argument, length) != 0)) {
            option++;
        }
        if (option == KNOWN) {
            wrong("unknown option", argument);
        }
        const char *value = argument[length] == '=' ? argument + length + 1 : argv[++i];
        if (value == NULL || *value == '\0') {
            wrong("a value is missing", known[option].name);
        }
        if (known[option].text != NULL) {
            *known[option].text = value;
        } else {
            *known[option].number =
                parse_number(known[option].name, value, known[option].least, known[option].most);
        }
    }
    if (algorithm != NULL) {
        parsed.algorithm = parse_algorithm("--algorithm", algorithm);
    }
    return parsed;
}
