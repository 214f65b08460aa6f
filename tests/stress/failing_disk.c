/* A disk that fails for a while under the files named *-wal, as Linux has it; see test_disk.py.
 *
 * A page that the disk did not take stays in memory as if it had, and each open file is told once.
 * What the disk has is in $DISK/image; $DISK/state is shared by all processes.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096
#define PAGES 65536
#define FILES 4096
#define REAL(type, name) ((type)dlsym(RTLD_NEXT, name))

typedef int (*open_t)(const char *, int, ...);
typedef int (*one_t)(int);
typedef ssize_t (*read_t)(int, void *, size_t, off_t);
typedef ssize_t (*write_t)(int, const void *, size_t, off_t);

static struct {
  volatile int broken, failures;
  volatile unsigned char dirty[PAGES];
} *disk;
static int image, lock, told[FILES];
static char is_log[FILES];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* threads share what they flock */

static int beside(const char *name) {
  char path[500];
  snprintf(path, sizeof path, "%s/%s", getenv("DISK"), name);
  int file = REAL(open_t, "open64")(path, O_RDWR | O_CLOEXEC);
  if (file < 0) abort();
  return file;
}

static void opened(int file, const char *path) {
  size_t length = strlen(path);
  if (file < 0 || file >= FILES) return;
  is_log[file] = length > 4 && !strcmp(path + length - 4, "-wal");
  if (!is_log[file]) return;
  if (!disk) {
    image = beside("image");
    lock = beside("lock");
    disk = mmap(0, sizeof *disk, PROT_READ | PROT_WRITE, MAP_SHARED, beside("state"), 0);
    if (disk == MAP_FAILED) abort();
  }
  told[file] = disk->failures;
}

#define OPEN(name)                                        \
  int name(const char *path, int flags, ...) {            \
    va_list more;                                         \
    va_start(more, flags);                                \
    int mode = va_arg(more, int);                         \
    va_end(more);                                         \
    int file = REAL(open_t, #name)(path, flags, mode);    \
    opened(file, path);                                   \
    return file;                                          \
  }
OPEN(open)
OPEN(open64)

#define WRITE(name)                                                                  \
  ssize_t name(int file, const void *data, size_t size, off_t start) {               \
    ssize_t done = REAL(write_t, #name)(file, data, size, start);                    \
    if (done > 0 && file < FILES && is_log[file])                                    \
      for (off_t page = start / PAGE; page <= (start + done - 1) / PAGE; page++)     \
        disk->dirty[page] = 1;                                                       \
    return done;                                                                     \
  }
WRITE(pwrite)
WRITE(pwrite64)

static int sync_file(int file, one_t real) {
  if (file >= FILES || !is_log[file]) return real(file);
  int failed = 0;
  pthread_mutex_lock(&mutex);
  flock(lock, LOCK_EX);
  for (off_t page = 0; page < PAGES; page++) {
    char data[PAGE];
    if (!disk->dirty[page]) continue;
    disk->dirty[page] = 0;
    __sync_synchronize(); /* who writes to it from now on makes it dirty again */
    if (disk->broken) {
      failed = 1;
      continue;
    }
    ssize_t size = REAL(read_t, "pread64")(file, data, PAGE, page * PAGE);
    if (size > 0 && REAL(write_t, "pwrite64")(image, data, size, page * PAGE) != size) abort();
  }
  disk->failures += failed;
  int news = told[file] != disk->failures;
  told[file] = disk->failures;
  flock(lock, LOCK_UN);
  pthread_mutex_unlock(&mutex);
  if (news) errno = EIO;
  return news ? -1 : 0;
}

int fdatasync(int file) { return sync_file(file, REAL(one_t, "fdatasync")); }
int fsync(int file) { return sync_file(file, REAL(one_t, "fsync")); }

int close(int file) {
  if (file >= 0 && file < FILES) is_log[file] = 0;
  return REAL(one_t, "close")(file);
}
