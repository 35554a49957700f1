// The wall clock is as far off as the file MOVED_CLOCK says (ns); to be loaded before the C library. Other clocks,
// and what is counted in whole seconds (`time`: certificates are judged by it), are as they are.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define SECOND_NS 1000000000LL

static int (*true_clock)(clockid_t, struct timespec *);
static const volatile long long *offset_ns;

__attribute__((constructor)) static void prepare(void) {
  const char *path = getenv("MOVED_CLOCK");
  int file = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return;
  void *seen = mmap(NULL, sizeof *offset_ns, PROT_READ, MAP_SHARED, file, 0);
  close(file);
  if (seen != MAP_FAILED) offset_ns = seen;
}

int clock_gettime(clockid_t which, struct timespec *now) {
  if (true_clock == NULL) *(void **)&true_clock = dlsym(RTLD_NEXT, "clock_gettime");
  const int failed = true_clock(which, now);
  if (failed != 0 || which != CLOCK_REALTIME || offset_ns == NULL) return failed;
  const long long at_ns = now->tv_sec * SECOND_NS + now->tv_nsec + *offset_ns;
  now->tv_sec = at_ns / SECOND_NS;
  now->tv_nsec = at_ns % SECOND_NS;
  return 0;
}
