/* Lies to one process about clocks and disk, as a page of shared memory says. Loaded before libc (LD_PRELOAD).
 *
 * Clocks: CLOCK_REALTIME is moved by wall_offset_ns. CLOCK_MONOTONIC, _RAW, _BOOTTIME run faster by rate_ppb (parts
 * per 10^9), continuously: a new rate begins where the old one has led. Absolute deadlines that the process derives
 * from them are led back before the kernel sees them.
 * Disk: write, pwrite, fallocate, fsync, fdatasync on files below the directory $JEPSEN_LIKE_DISK fail or are slow.
 * The layout of the page is that of shim.py.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL

struct page {
  int64_t wall_offset_ns;
  int64_t rate_ppb;
  int64_t write_errno;
  int64_t sync_errno;
  int64_t sync_delay_us;
  int64_t clock_reads; /* told back: how often the process asked */
  int64_t disk_faults; /* told back: how often it was lied to about the disk */
};

static struct page quiet, *page = &quiet;
static char directory[4096];
static size_t directory_length;

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static struct { int64_t real, shown, rate; int set; } anchors[3]; /* MONOTONIC, RAW, BOOTTIME */

static int64_t to_ns(const struct timespec *t) { return t->tv_sec * SECOND + t->tv_nsec; }

static void from_ns(int64_t ns, struct timespec *t) {
  t->tv_sec = ns / SECOND;
  t->tv_nsec = ns % SECOND;
  if (t->tv_nsec < 0) { t->tv_nsec += SECOND; t->tv_sec -= 1; }
}

/* vDSO through libc's own symbol, found once; a constructor runs before any thread is made. */
static int (*real_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
  real_gettime = dlsym(RTLD_NEXT, "clock_gettime");
  const char *name = getenv("JEPSEN_LIKE_SHIM");
  const char *below = getenv("JEPSEN_LIKE_DISK");
  if (below && strlen(below) < sizeof directory) {
    strcpy(directory, below);
    directory_length = strlen(below);
  }
  int fd = name ? open(name, O_RDWR | O_CLOEXEC) : -1;
  if (fd < 0) return;
  void *found = mmap(NULL, sizeof(struct page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (found != MAP_FAILED) page = found;
}

static int slot(clockid_t id) {
  switch (id) {
    case CLOCK_MONOTONIC: return 0;
    case CLOCK_MONOTONIC_RAW: return 1;
    case CLOCK_BOOTTIME: return 2;
    default: return -1;
  }
}

static int64_t scaled(int64_t ns, int64_t ppb) { return ns + (int64_t)((__int128)ns * ppb / SECOND); }

/* What the process sees when the clock of this slot truly stands at `real`. */
static int64_t shown_at(int which, int64_t real) {
  int64_t rate = *(volatile int64_t *)&page->rate_ppb;
  pthread_mutex_lock(&turn);
  if (!anchors[which].set) {
    anchors[which].real = anchors[which].shown = real;
    anchors[which].rate = rate;
    anchors[which].set = 1;
  }
  int64_t shown = anchors[which].shown + scaled(real - anchors[which].real, anchors[which].rate);
  if (rate != anchors[which].rate) {
    anchors[which].real = real;
    anchors[which].shown = shown;
    anchors[which].rate = rate;
  }
  pthread_mutex_unlock(&turn);
  return shown;
}

/* When the clock truly stands so that the process sees `shown`. */
static int64_t real_for(int which, int64_t shown) {
  pthread_mutex_lock(&turn);
  int64_t real = shown;
  if (anchors[which].set) {
    int64_t past = shown - anchors[which].shown;
    real = anchors[which].real + (int64_t)((__int128)past * SECOND / (SECOND + anchors[which].rate));
  }
  pthread_mutex_unlock(&turn);
  return real;
}

int clock_gettime(clockid_t id, struct timespec *out) {
  if (!real_gettime) return (int)syscall(SYS_clock_gettime, id, out);
  int result = real_gettime(id, out);
  if (result != 0) return result;
  int which = slot(id);
  if (which >= 0) {
    from_ns(shown_at(which, to_ns(out)), out);
    __atomic_add_fetch(&page->clock_reads, 1, __ATOMIC_RELAXED);
  } else if (id == CLOCK_REALTIME) {
    from_ns(to_ns(out) + *(volatile int64_t *)&page->wall_offset_ns, out);
  }
  return 0;
}

time_t time(time_t *out) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (out) *out = now.tv_sec;
  return now.tv_sec;
}

int gettimeofday(struct timeval *out, void *zone) {
  (void)zone;
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  out->tv_sec = now.tv_sec;
  out->tv_usec = now.tv_nsec / 1000;
  return 0;
}

static const struct timespec *led_back(clockid_t id, const struct timespec *until, struct timespec *room) {
  int which = slot(id);
  if (which >= 0) from_ns(real_for(which, to_ns(until)), room);
  else if (id == CLOCK_REALTIME) from_ns(to_ns(until) - *(volatile int64_t *)&page->wall_offset_ns, room);
  else return until;
  return room;
}

int clock_nanosleep(clockid_t id, int flags, const struct timespec *until, struct timespec *left) {
  static int (*real)(clockid_t, int, const struct timespec *, struct timespec *);
  if (!real) real = dlsym(RTLD_NEXT, "clock_nanosleep");
  struct timespec room;
  return real(id, flags, flags & TIMER_ABSTIME ? led_back(id, until, &room) : until, left);
}

int sem_clockwait(sem_t *sem, clockid_t id, const struct timespec *until) {
  static int (*real)(sem_t *, clockid_t, const struct timespec *);
  if (!real) real = dlsym(RTLD_NEXT, "sem_clockwait");
  struct timespec room;
  return real(sem, id, led_back(id, until, &room));
}

int pthread_cond_clockwait(pthread_cond_t *cond, pthread_mutex_t *mutex, clockid_t id, const struct timespec *until) {
  static int (*real)(pthread_cond_t *, pthread_mutex_t *, clockid_t, const struct timespec *);
  if (!real) real = dlsym(RTLD_NEXT, "pthread_cond_clockwait");
  struct timespec room;
  return real(cond, mutex, id, led_back(id, until, &room));
}

/* Condition variables have a clock of their own, told when they are made. CPython hands its interpreter lock from thread
 * to thread by some that go by CLOCK_MONOTONIC. */
#define MONOTONIC_MAX 256 /* remembered; one beyond would be taken to go by CLOCK_REALTIME */
static pthread_cond_t *_Atomic monotonic[MONOTONIC_MAX];

static void *newest(const char *name) {
  void *found = dlvsym(RTLD_NEXT, name, "GLIBC_2.3.2"); /* x86-64 has an older one too */
  return found ? found : dlsym(RTLD_NEXT, name);
}

static void remember(pthread_cond_t *cond, int is_monotonic) {
  int known = -1;
  for (int i = 0; i < MONOTONIC_MAX; i++)
    if (monotonic[i] == cond) known = i;
  if (known >= 0 && !is_monotonic) monotonic[known] = NULL;
  for (int i = 0; known < 0 && is_monotonic && i < MONOTONIC_MAX; i++) {
    pthread_cond_t *nobody = NULL;
    if (atomic_compare_exchange_strong(&monotonic[i], &nobody, cond)) known = i;
  }
}

int pthread_cond_init(pthread_cond_t *cond, const pthread_condattr_t *attributes) {
  static int (*real)(pthread_cond_t *, const pthread_condattr_t *);
  if (!real) real = newest("pthread_cond_init");
  clockid_t id = CLOCK_REALTIME;
  if (attributes) pthread_condattr_getclock(attributes, &id);
  remember(cond, id == CLOCK_MONOTONIC);
  return real(cond, attributes);
}

int pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *until) {
  static int (*real)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
  if (!real) real = newest("pthread_cond_timedwait");
  clockid_t id = CLOCK_REALTIME;
  for (int i = 0; i < MONOTONIC_MAX && id == CLOCK_REALTIME; i++)
    if (monotonic[i] == cond) id = CLOCK_MONOTONIC;
  struct timespec room;
  return real(cond, mutex, led_back(id, until, &room));
}

/* -- disk -------------------------------------------------------------------------------------------------------- */

static int below(int fd) {
  if (!directory_length) return 0;
  char name[32], path[4096];
  snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(name, path, sizeof path - 1);
  return length > (ssize_t)directory_length && memcmp(path, directory, directory_length) == 0;
}

static int fails(int fd, volatile int64_t *wanted) {
  int64_t number = *wanted;
  if (number == 0 || !below(fd)) return 0;
  __atomic_add_fetch(&page->disk_faults, 1, __ATOMIC_RELAXED);
  errno = (int)number;
  return 1;
}

static void linger(int fd) {
  int64_t delay_us = *(volatile int64_t *)&page->sync_delay_us;
  if (delay_us <= 0 || !below(fd)) return;
  __atomic_add_fetch(&page->disk_faults, 1, __ATOMIC_RELAXED);
  struct timespec wait;
  from_ns(delay_us * 1000, &wait);
  syscall(SYS_nanosleep, &wait, NULL);
}

ssize_t write(int fd, const void *data, size_t size) {
  if (fails(fd, &page->write_errno)) return -1;
  return syscall(SYS_write, fd, data, size);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
  if (fails(fd, &page->write_errno)) return -1;
  return syscall(SYS_pwrite64, fd, data, size, offset);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return pwrite64(fd, data, size, offset); }

int posix_fallocate64(int fd, off64_t offset, off64_t length) {
  static int (*real)(int, off64_t, off64_t);
  if (!real) real = dlsym(RTLD_NEXT, "posix_fallocate64");
  if (fails(fd, &page->write_errno)) return errno;
  return real(fd, offset, length);
}

int posix_fallocate(int fd, off_t offset, off_t length) { return posix_fallocate64(fd, offset, length); }

int fsync(int fd) {
  linger(fd);
  if (fails(fd, &page->sync_errno)) return -1;
  return (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd) {
  linger(fd);
  if (fails(fd, &page->sync_errno)) return -1;
  return (int)syscall(SYS_fdatasync, fd);
}
