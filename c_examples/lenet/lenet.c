#include "lenet.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Passes a failed call's status on; cnnkern_last_error() keeps its message. */
#define TRY(call)                                                                                \
    do {                                                                                         \
        const cnnkern_status try_status = (call);                                                \
        if (try_status != CNNKERN_STATUS_OK) {                                                   \
            return try_status;                                                                   \
        }                                                                                        \
    } while (0)

enum { CONV1, CONV2, DENSE1, DENSE2, DENSE3, LAYERS };

/* `fan_in` is how many numbers one output is summed from: the weights of a convolution are
   [outputs, input channels, 5, 5], those of a dense layer [outputs, inputs]. */
static const struct { size_t outputs, fan_in; } SHAPES[LAYERS] = {
    [CONV1] = {6, 1 * 5 * 5}, [CONV2] = {16, 6 * 5 * 5},
    [DENSE1] = {120, 400}, [DENSE2] = {84, 120}, [DENSE3] = {LENET_CLASSES, 84},
};

struct layer {
    size_t outputs, fan_in;
    float *w, *bias;
    float *dw, *dbias;
};

/* What flows through the network: values forwards, their gradients backwards. */
struct activations {
    float *pool1, *pool2, *dense1, *dense2, *logits;
};

/* Numbers for one image. */
enum {
    POOL1_SIZE = 6 * 14 * 14, POOL2_SIZE = 16 * 5 * 5,
    DENSE1_SIZE = 120, DENSE2_SIZE = 84, LOGITS_SIZE = LENET_CLASSES,
    ACTIVATIONS_SIZE = POOL1_SIZE + POOL2_SIZE + DENSE1_SIZE + DENSE2_SIZE + LOGITS_SIZE
};

struct lenet {
    cnnkern_context *context;
    cnnkern_algorithm algorithm;
    struct layer layers[LAYERS];
    size_t parameter_count;
    struct activations value, gradient;
    uint8_t *argmax1, *argmax2; /* which of a window's four cells was the largest */
    float *floats; /* the one block: parameters, their gradients, activations, their gradients */
};

static float *take(float **next, size_t count)
{
    float *taken = *next;
    *next += count;
    return taken;
}

static struct activations take_activations(float **next, size_t max_batch)
{
    struct activations taken;
    taken.pool1 = take(next, max_batch * POOL1_SIZE);
    taken.pool2 = take(next, max_batch * POOL2_SIZE);
    taken.dense1 = take(next, max_batch * DENSE1_SIZE);
    taken.dense2 = take(next, max_batch * DENSE2_SIZE);
    taken.logits = take(next, max_batch * LOGITS_SIZE);
    return taken;
}

/* He's uniform initialisation (2015); biases stay 0. */
static void draw_weights(struct layer *layer, struct random_stream *random)
{
    const double limit = sqrt(6.0 / (double)layer->fan_in);
    for (size_t i = 0; i < layer->outputs * layer->fan_in; i++) {
        layer->w[i] = (float)(limit * (2 * random_unit(random) - 1));
    }
}

struct lenet *lenet_create(cnnkern_context *context, size_t max_batch, cnnkern_algorithm algorithm,
                           struct random_stream *random)
{
    struct lenet *net = calloc(1, sizeof *net);
    if (net == NULL) {
        return NULL;
    }
    net->context = context;
    net->algorithm = algorithm;
    for (size_t i = 0; i < LAYERS; i++) {
        net->parameter_count += SHAPES[i].outputs * (SHAPES[i].fan_in + 1);
    }
    net->floats = calloc(2 * (net->parameter_count + max_batch * ACTIVATIONS_SIZE), sizeof(float));
    net->argmax1 = malloc(max_batch * POOL1_SIZE);
    net->argmax2 = malloc(max_batch * POOL2_SIZE);
    if (net->floats == NULL || net->argmax1 == NULL || net->argmax2 == NULL) {
        lenet_destroy(net);
        return NULL;
    }

    float *next = net->floats;
    for (size_t i = 0; i < LAYERS; i++) {
        struct layer *layer = &net->layers[i];
        layer->outputs = SHAPES[i].outputs;
        layer->fan_in = SHAPES[i].fan_in;
        layer->w = take(&next, layer->outputs * layer->fan_in);
        layer->bias = take(&next, layer->outputs);
        layer->dw = layer->w + net->parameter_count;
        layer->dbias = layer->bias + net->parameter_count;
        draw_weights(layer, random);
    }
    take(&next, net->parameter_count); /* the gradients */
    net->value = take_activations(&next, max_batch);
    net->gradient = take_activations(&next, max_batch);
    return net;
}

void lenet_destroy(struct lenet *net)
{
    if (net != NULL) {
        free(net->argmax2);
        free(net->argmax1);
        free(net->floats);
        free(net);
    }
}

size_t lenet_parameter_count(const struct lenet *net) { return net->parameter_count; }
float *lenet_parameters(struct lenet *net) { return net->floats; }
const float *lenet_gradients(const struct lenet *net) { return net->floats + net->parameter_count; }

static cnnkern_conv2d_params conv1_params(const struct lenet *net, size_t batch)
{
    cnnkern_conv2d_params params = cnnkern_conv2d_params_default(batch, 1, 28, 28, 6, 5, 5);
    params.pad_top = params.pad_bottom = params.pad_left = params.pad_right = 2;
    params.algorithm = net->algorithm;
    return params;
}

static cnnkern_conv2d_params conv2_params(const struct lenet *net, size_t batch)
{
    cnnkern_conv2d_params params = cnnkern_conv2d_params_default(batch, 6, 14, 14, 16, 5, 5);
    params.algorithm = net->algorithm;
    return params;
}

static cnnkern_pool2d_params pool_params(size_t batch, size_t channels, size_t size)
{
    cnnkern_pool2d_params params = cnnkern_pool2d_params_default(batch, channels, size, size, 2, 2);
    params.argmax_type = CNNKERN_ARGMAX_U8;
    return params;
}

/* y[batch, outputs] = x[batch, inputs] * w^T + bias */
static cnnkern_status dense_forward(cnnkern_context *context, size_t batch,
                                    const struct layer *layer, const float *x, float *y)
{
    for (size_t n = 0; n < batch; n++) {
        memcpy(y + n * layer->outputs, layer->bias, layer->outputs * sizeof *y);
    }
    return cnnkern_gemm_f32(context, CNNKERN_NO_TRANSPOSE, CNNKERN_TRANSPOSE,
                            batch, layer->outputs, layer->fan_in, 1.0f, x, layer->fan_in,
                            layer->w, layer->fan_in, 1.0f, y, layer->outputs);
}

/* dbias = the sum of dy over the batch, dw = dy^T * x, dx = dy * w */
static cnnkern_status dense_backward(cnnkern_context *context, size_t batch,
                                     const struct layer *layer, const float *x, const float *dy,
                                     float *dx)
{
    memset(layer->dbias, 0, layer->outputs * sizeof *layer->dbias);
    for (size_t n = 0; n < batch; n++) {
        for (size_t i = 0; i < layer->outputs; i++) {
            layer->dbias[i] += dy[n * layer->outputs + i];
        }
    }
    TRY(cnnkern_gemm_f32(context, CNNKERN_TRANSPOSE, CNNKERN_NO_TRANSPOSE,
                         layer->outputs, layer->fan_in, batch, 1.0f, dy, layer->outputs,
                         x, layer->fan_in, 0.0f, layer->dw, layer->fan_in));
    return cnnkern_gemm_f32(context, CNNKERN_NO_TRANSPOSE, CNNKERN_NO_TRANSPOSE,
                            batch, layer->fan_in, layer->outputs, 1.0f, dy, layer->outputs,
                            layer->w, layer->fan_in, 0.0f, dx, layer->fan_in);
}

/* From the images to the logits. */
static cnnkern_status forward(struct lenet *net, size_t batch, const float *images)
{
    cnnkern_context *context = net->context;
    const struct layer *layers = net->layers;
    const struct activations *value = &net->value;
    const cnnkern_conv2d_params conv1 = conv1_params(net, batch);
    const cnnkern_conv2d_params conv2 = conv2_params(net, batch);
    const cnnkern_pool2d_params pool1 = pool_params(batch, 6, 28);
    const cnnkern_pool2d_params pool2 = pool_params(batch, 16, 10);

    /* Convolution, ReLU and pooling in one step: what lies between them is never stored. */
    TRY(cnnkern_conv2d_maxpool2d_forward_f32(context, &conv1, &pool1, images, layers[CONV1].w,
                                             layers[CONV1].bias, CNNKERN_ACTIVATION_RELU,
                                             value->pool1, net->argmax1));
    TRY(cnnkern_conv2d_maxpool2d_forward_f32(context, &conv2, &pool2, value->pool1,
                                             layers[CONV2].w, layers[CONV2].bias,
                                             CNNKERN_ACTIVATION_RELU, value->pool2,
                                             net->argmax2));

    TRY(dense_forward(context, batch, &layers[DENSE1], value->pool2, value->dense1));
    TRY(cnnkern_relu_forward_f32(context, batch * DENSE1_SIZE, value->dense1, value->dense1));
    TRY(dense_forward(context, batch, &layers[DENSE2], value->dense1, value->dense2));
    TRY(cnnkern_relu_forward_f32(context, batch * DENSE2_SIZE, value->dense2, value->dense2));
    return dense_forward(context, batch, &layers[DENSE3], value->dense2, value->logits);
}

/* From the logits' gradient to that of every parameter. */
static cnnkern_status backward(struct lenet *net, size_t batch, const float *images)
{
    cnnkern_context *context = net->context;
    const struct layer *layers = net->layers;
    const struct activations *value = &net->value, *gradient = &net->gradient;
    const cnnkern_conv2d_params conv1 = conv1_params(net, batch);
    const cnnkern_conv2d_params conv2 = conv2_params(net, batch);
    const cnnkern_pool2d_params pool1 = pool_params(batch, 6, 28);
    const cnnkern_pool2d_params pool2 = pool_params(batch, 16, 10);

    TRY(dense_backward(context, batch, &layers[DENSE3], value->dense2, gradient->logits,
                       gradient->dense2));
    TRY(cnnkern_relu_backward_f32(context, batch * DENSE2_SIZE, value->dense2, gradient->dense2,
                                  gradient->dense2));
    TRY(dense_backward(context, batch, &layers[DENSE2], value->dense1, gradient->dense2,
                       gradient->dense1));
    TRY(cnnkern_relu_backward_f32(context, batch * DENSE1_SIZE, value->dense1, gradient->dense1,
                                  gradient->dense1));
    TRY(dense_backward(context, batch, &layers[DENSE1], value->pool2, gradient->dense1,
                       gradient->pool2));

    /* Given the pooled output, the step back takes the ReLU in with it. */
    TRY(cnnkern_conv2d_maxpool2d_backward_f32(context, &conv2, &pool2, value->pool1,
                                              layers[CONV2].w, gradient->pool2, net->argmax2,
                                              value->pool2, NULL, gradient->pool1,
                                              layers[CONV2].dw, layers[CONV2].dbias));
    /* Nobody asks for the images' gradient, so the weights are not needed either. */
    return cnnkern_conv2d_maxpool2d_backward_f32(context, &conv1, &pool1, images, NULL,
                                                 gradient->pool1, net->argmax1, value->pool1,
                                                 NULL, NULL, layers[CONV1].dw,
                                                 layers[CONV1].dbias);
}

/* Turns an image's logits into probabilities, and returns the logarithm of the sum of their
   exponentials. The largest is taken out first, so that nothing overflows. */
static double softmax(float *logits)
{
    double largest = logits[0], exponentials[LENET_CLASSES], sum = 0;
    for (size_t i = 1; i < LENET_CLASSES; i++) {
        largest = fmax(largest, logits[i]);
    }
    for (size_t i = 0; i < LENET_CLASSES; i++) {
        exponentials[i] = exp(logits[i] - largest);
        sum += exponentials[i];
    }
    for (size_t i = 0; i < LENET_CLASSES; i++) {
        logits[i] = (float)(exponentials[i] / sum);
    }
    return largest + log(sum);
}

cnnkern_status lenet_classify(struct lenet *net, size_t batch, const float *images,
                              const float **probabilities)
{
    TRY(forward(net, batch, images));
    for (size_t n = 0; n < batch; n++) {
        softmax(net->value.logits + n * LOGITS_SIZE);
    }
    *probabilities = net->value.logits;
    return CNNKERN_STATUS_OK;
}

cnnkern_status lenet_learn(struct lenet *net, size_t batch, const float *images,
                           const uint8_t *labels, double *loss)
{
    TRY(forward(net, batch, images));

    double sum = 0;
    for (size_t n = 0; n < batch; n++) {
        float *logits = net->value.logits + n * LOGITS_SIZE;
        float *gradient = net->gradient.logits + n * LOGITS_SIZE;
        const float label_logit = logits[labels[n]];
        sum += softmax(logits) - label_logit; /* cross-entropy: -log(the label's probability) */
        for (size_t i = 0; i < LENET_CLASSES; i++) {
            gradient[i] = (logits[i] - (i == labels[n] ? 1.0f : 0.0f)) / (float)batch;
        }
    }
    *loss = sum / (double)batch;
    return backward(net, batch, images);
}
