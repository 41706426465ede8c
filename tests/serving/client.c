// Asks an exported model from C, in a process without Python: loads a SavedModel as TensorFlow Serving does, and runs it.
//
//   client EXPORT [--library FILE.so]... [--strings OP:INDEX FILE,FILE,...]... [--float OP:INDEX VALUE]...
//          [--int OP:INDEX VALUE]... [--output OP:INDEX]...
//
// Prints each output on a line: type, shape, and the values; strings as hexadecimal bytes.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"

#define MAX 32

static void check(const TF_Status* status, const char* what) {
  if (TF_GetCode(status) == TF_OK) return;
  fprintf(stderr, "%s: %s\n", what, TF_Message(status));
  exit(1);
}

static TF_Output place(TF_Graph* graph, const char* name) {  // "op:index"
  char op[512];
  snprintf(op, sizeof op, "%s", name);
  char* colon = strrchr(op, ':');
  if (colon == NULL) fprintf(stderr, "%s: expected OP:INDEX\n", name), exit(1);
  *colon = 0;
  TF_Output output = {TF_GraphOperationByName(graph, op), atoi(colon + 1)};
  if (output.oper == NULL) fprintf(stderr, "%s: no such operation\n", op), exit(1);
  return output;
}

static void read_file(const char* path, TF_TString* string) {
  FILE* file = fopen(path, "rb");
  if (file == NULL) perror(path), exit(1);
  fseek(file, 0, SEEK_END);
  size_t size = ftell(file);
  char* bytes = malloc(size + 1);
  rewind(file);
  if (fread(bytes, 1, size, file) != size) perror(path), exit(1);
  fclose(file);
  TF_StringInit(string);
  TF_StringCopy(string, bytes, size);
  free(bytes);
}

static TF_Tensor* strings(char* paths) {  // the contents of files, a vector
  int64_t count = 1;
  for (char* c = paths; *c; c++) count += *c == ',';
  TF_Tensor* tensor = TF_AllocateTensor(TF_STRING, &count, 1, count * sizeof(TF_TString));
  TF_TString* string = TF_TensorData(tensor);
  for (char* path = strtok(paths, ","); path; path = strtok(NULL, ",")) read_file(path, string++);
  return tensor;
}

static void print(const TF_Tensor* tensor) {
  printf("%d [", TF_TensorType(tensor));
  for (int i = 0; i < TF_NumDims(tensor); i++) printf("%s%lld", i ? "," : "", (long long)TF_Dim(tensor, i));
  printf("]");
  for (int64_t i = 0; i < TF_TensorElementCount(tensor); i++) {
    if (TF_TensorType(tensor) == TF_STRING) {
      const TF_TString* string = (const TF_TString*)TF_TensorData(tensor) + i;
      const char* bytes = TF_StringGetDataPointer(string);
      printf(" x");
      for (size_t k = 0; k < TF_StringGetSize(string); k++) printf("%02x", (unsigned char)bytes[k]);
    } else if (TF_TensorType(tensor) == TF_FLOAT) {
      printf(" %.9g", ((const float*)TF_TensorData(tensor))[i]);
    } else if (TF_TensorType(tensor) == TF_BOOL) {
      printf(" %d", ((const unsigned char*)TF_TensorData(tensor))[i]);
    } else {
      fprintf(stderr, "an output of type %d can't be printed\n", TF_TensorType(tensor)), exit(1);
    }
  }
  printf("\n");
}

int main(int argc, char** argv) {
  TF_Status* status = TF_NewStatus();
  for (int i = 2; i + 1 < argc; i++) {
    if (strcmp(argv[i], "--library") == 0) TF_LoadLibrary(argv[i + 1], status), check(status, argv[i + 1]);
  }
  TF_Graph* graph = TF_NewGraph();
  const char* tags[] = {"serve"};
  TF_SessionOptions* options = TF_NewSessionOptions();
  TF_Session* session = TF_LoadSessionFromSavedModel(options, NULL, argv[1], tags, 1, graph, NULL, status);
  check(status, argv[1]);

  TF_Output inputs[MAX], outputs[MAX];
  TF_Tensor *given[MAX], *results[MAX];
  int given_count = 0, output_count = 0;
  for (int i = 2; i + 1 < argc && given_count < MAX && output_count < MAX; i++) {
    if (strcmp(argv[i], "--output") == 0) {
      outputs[output_count++] = place(graph, argv[++i]);
    } else if (strcmp(argv[i], "--library") == 0) {
      i++;
    } else if (i + 2 < argc) {
      inputs[given_count] = place(graph, argv[i + 1]);
      TF_Tensor* tensor;
      if (strcmp(argv[i], "--strings") == 0) {
        tensor = strings(argv[i + 2]);
      } else if (strcmp(argv[i], "--float") == 0) {
        tensor = TF_AllocateTensor(TF_FLOAT, NULL, 0, sizeof(float));
        *(float*)TF_TensorData(tensor) = strtof(argv[i + 2], NULL);
      } else {
        tensor = TF_AllocateTensor(TF_INT32, NULL, 0, sizeof(int32_t));
        *(int32_t*)TF_TensorData(tensor) = atoi(argv[i + 2]);
      }
      given[given_count++] = tensor;
      i += 2;
    }
  }
  TF_SessionRun(session, NULL, inputs, given, given_count, outputs, results, output_count, NULL, 0, NULL, status);
  check(status, "run");
  for (int i = 0; i < output_count; i++) print(results[i]);
  return 0;
}
