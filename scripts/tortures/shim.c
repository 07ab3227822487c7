// Faults between the program and the kernel, loaded with LD_PRELOAD. It affects the wall clock and the files of one
// directory, TORTURE_DIR. `shim.py` has the other side: TORTURE_CONTROL is a file of 64-bit integers that both map, so
// that a fault begins and ends while the program runs. With TORTURE_RECORD every operation that changes the directory
// is appended to that file, from which `power.py` rebuilds what a loss of power would have left.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

// The order is that of FIELDS in shim.py.
struct control {
    volatile int64_t clock_offset; // seconds that are added to the wall clock
    volatile int64_t sync_errno;   // syncs fail with this error
    volatile int64_t sync_swallow; // syncs report success without being done, and are not recorded
    volatile int64_t sync_delay;   // µs that each sync takes longer
    volatile int64_t write_errno;  // writes fail with this error
    volatile int64_t grow_errno;   // writes beyond the end of a file fail with this error unless there is room
    volatile int64_t room;         // bytes by which files may still grow; what is truncated or removed adds to it
    volatile int64_t targets;      // files that faults affect: 1 database, 2 WAL, 4 others
    volatile int64_t faults;       // counts the calls that were made to fail, or were swallowed or delayed
    volatile int64_t recorded;     // length of the record
};

enum { CREATE = 1, OPEN, WRITE, TRUNCATE, SYNC, SYNC_DIRECTORY, UNLINK, RENAME };
enum { DATABASE = 1, WAL = 2, OTHER = 4 };
enum { MAX_FILES = 4096, MAX_NAMES = 1024, DIRECTORY = -1, UNNAMED = -2 };

struct name {
    char path[256]; // relative to the directory; empty if unused
    int id;
};

static struct control unused;
static struct control *control = &unused;
static char directory[4096];
static size_t directory_length;
static int record = -1;
static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static int ids[MAX_FILES];   // by file descriptor: DIRECTORY, UNNAMED, an id from 1 on, or 0 if it is none of ours
static int kinds[MAX_FILES]; // by file descriptor
static struct name names[MAX_NAMES];
static int last_id;

#define REAL(result, name, ...) \
    static result (*real_##name)(__VA_ARGS__); \
    if (!real_##name) real_##name = dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void start(void) {
    const char *of_directory = getenv("TORTURE_DIR");
    const char *of_control = getenv("TORTURE_CONTROL");
    const char *of_record = getenv("TORTURE_RECORD");
    if (of_control) {
        int fd = open(of_control, O_RDWR | O_CLOEXEC);
        void *mapped = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (mapped == MAP_FAILED) abort();
        control = mapped;
        close(fd);
    }
    if (of_record) record = open(of_record, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (of_directory) {
        snprintf(directory, sizeof directory, "%s", of_directory);
        directory_length = strlen(directory);
    }
}

// The path relative to the directory, "" for the directory itself, or NULL if the path is outside. Indexes of the WAL
// are left out: no sync ever makes them durable, and SQLite rebuilds them.
static const char *relative(const char *path) {
    if (!directory_length || strncmp(path, directory, directory_length)) return NULL;
    path += directory_length;
    size_t length = strlen(path);
    if (*path == '/') path++;
    else if (*path) return NULL;
    return length > 4 && !strcmp(path + strlen(path) - 4, "-shm") ? NULL : path;
}

static int kind_of(const char *name) {
    size_t length = strlen(name);
    if (!strcmp(name, "tollhouse.db")) return DATABASE;
    return length > 4 && !strcmp(name + length - 4, "-wal") ? WAL : OTHER;
}

static struct name *find_name(const char *path) {
    for (int i = 0; i < MAX_NAMES; i++)
        if (names[i].path[0] && !strcmp(names[i].path, path)) return &names[i];
    return NULL;
}

static struct name *add_name(const char *path) {
    for (int i = 0; i < MAX_NAMES; i++)
        if (!names[i].path[0]) {
            snprintf(names[i].path, sizeof names[i].path, "%s", path);
            names[i].id = ++last_id;
            return &names[i];
        }
    abort();
}

static void append(int kind, int id, int64_t offset, const void *data, size_t length) {
    if (record < 0 || id == UNNAMED) return;
    REAL(ssize_t, writev, int, const struct iovec *, int);
    struct { int32_t kind, id; int64_t offset, length; } head = {kind, id, offset, (int64_t)length};
    struct iovec parts[] = {{&head, sizeof head}, {(void *)data, length}};
    if (real_writev(record, parts, 2) != (ssize_t)(sizeof head + length)) abort();
    control->recorded += sizeof head + length;
}

static int tracked(int fd) { return fd >= 0 && fd < MAX_FILES && ids[fd]; }

static int is_target(int fd) { return tracked(fd) && ids[fd] != DIRECTORY && (control->targets & kinds[fd]); }

static int fault(int error) {
    __atomic_add_fetch(&control->faults, 1, __ATOMIC_RELAXED);
    errno = error;
    return -1;
}

// A full disk has room again for what a file gives back. A limit on the size of a file (EFBIG) is not such a disk.
static void give_back(int64_t bytes) {
    if (control->grow_errno && control->grow_errno != EFBIG && bytes > 0) control->room += bytes;
}

static int open_file(const char *path, int flags, mode_t mode) {
    REAL(int, open64, const char *, int, ...);
    const char *name = relative(path);
    if (!name) return real_open64(path, flags, mode);
    pthread_mutex_lock(&lock);
    struct stat before;
    int existed = !stat(path, &before);
    int fd = real_open64(path, flags, mode);
    if (fd >= 0 && fd < MAX_FILES) {
        if (!*name) {
            // No file without a name outlives a loss of power, so it isn't recorded. But it takes room.
            ids[fd] = (flags & O_TMPFILE) == O_TMPFILE ? UNNAMED : DIRECTORY;
            kinds[fd] = OTHER;
        } else {
            struct name *file = find_name(name);
            if (!existed && file) file->path[0] = 0, file = NULL;
            if (!file) {
                file = add_name(name);
                append(existed ? OPEN : CREATE, file->id, 0, name, strlen(name));
            }
            if (existed && flags & O_TRUNC) append(TRUNCATE, file->id, 0, NULL, 0);
            ids[fd] = file->id;
            kinds[fd] = kind_of(name);
        }
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

int open64(const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    return open_file(path, flags, mode);
}

int open(const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    return open_file(path, flags, mode);
}

int close(int fd) {
    REAL(int, close, int);
    if (!tracked(fd)) return real_close(fd);
    pthread_mutex_lock(&lock);
    struct stat unnamed;
    if (ids[fd] == UNNAMED && !fstat(fd, &unnamed)) give_back(unnamed.st_size);
    ids[fd] = 0;
    int result = real_close(fd);
    pthread_mutex_unlock(&lock);
    return result;
}

// Fails the write, or records it. The record precedes the write, so that everything that the program told anyone after
// the write has a position in the record behind it.
static int before_write(int fd, const void *data, size_t length, int64_t offset) {
    if (is_target(fd) && control->write_errno) return fault((int)control->write_errno);
    if (is_target(fd) && control->grow_errno) {
        struct stat now;
        int64_t growth = fstat(fd, &now) ? 0 : offset + (int64_t)length - now.st_size;
        if (growth > control->room) return fault((int)control->grow_errno);
        if (growth > 0) control->room -= growth;
    }
    append(WRITE, ids[fd], offset, data, length);
    return 0;
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t);
    if (!tracked(fd)) return real_pwrite64(fd, data, length, offset);
    pthread_mutex_lock(&lock);
    ssize_t result = before_write(fd, data, length, offset);
    if (!result) result = real_pwrite64(fd, data, length, offset);
    pthread_mutex_unlock(&lock);
    return result;
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) { return pwrite64(fd, data, length, offset); }

ssize_t write(int fd, const void *data, size_t length) {
    REAL(ssize_t, write, int, const void *, size_t);
    if (!tracked(fd)) return real_write(fd, data, length);
    pthread_mutex_lock(&lock);
    ssize_t result = before_write(fd, data, length, lseek(fd, 0, SEEK_CUR));
    if (!result) result = real_write(fd, data, length);
    pthread_mutex_unlock(&lock);
    return result;
}

int ftruncate64(int fd, off64_t length) {
    REAL(int, ftruncate64, int, off64_t);
    if (!tracked(fd)) return real_ftruncate64(fd, length);
    pthread_mutex_lock(&lock);
    append(TRUNCATE, ids[fd], length, NULL, 0);
    struct stat before = {0};
    fstat(fd, &before);
    int result = real_ftruncate64(fd, length);
    if (!result) give_back(before.st_size - length);
    pthread_mutex_unlock(&lock);
    return result;
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

// What was written before is durable when the sync has ended, so the record follows it.
static int synced(int fd, int (*real)(int)) {
    if (is_target(fd) || (tracked(fd) && ids[fd] == DIRECTORY)) {
        if (control->sync_swallow) return fault(0) + 1;
        if (ids[fd] != DIRECTORY && control->sync_errno) return fault((int)control->sync_errno);
        if (control->sync_delay) fault(0), usleep((useconds_t)control->sync_delay);
    }
    int result = real(fd);
    if (!result && tracked(fd)) {
        pthread_mutex_lock(&lock);
        append(ids[fd] == DIRECTORY ? SYNC_DIRECTORY : SYNC, ids[fd], 0, NULL, 0);
        pthread_mutex_unlock(&lock);
    }
    return result;
}

int fsync(int fd) {
    REAL(int, fsync, int);
    return synced(fd, real_fsync);
}

int fdatasync(int fd) {
    REAL(int, fdatasync, int);
    return synced(fd, real_fdatasync);
}

int unlink(const char *path) {
    REAL(int, unlink, const char *);
    const char *name = relative(path);
    if (!name) return real_unlink(path);
    pthread_mutex_lock(&lock);
    struct stat before = {0};
    stat(path, &before);
    int result = real_unlink(path);
    if (!result) {
        give_back(before.st_size);
        struct name *file = find_name(name);
        if (file) file->path[0] = 0;
        append(UNLINK, 0, 0, name, strlen(name));
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *);
    const char *old = relative(from), *new = relative(to);
    if (!old || !new) return real_rename(from, to);
    pthread_mutex_lock(&lock);
    int result = real_rename(from, to);
    if (!result) {
        struct name *file = find_name(old), *replaced = find_name(new);
        if (replaced) replaced->path[0] = 0;
        if (file) snprintf(file->path, sizeof file->path, "%s", new);
        char both[8192];
        int length = snprintf(both, sizeof both, "%s%c%s", old, 0, new);
        append(RENAME, 0, 0, both, (size_t)length);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(int, clock_gettime, clockid_t, struct timespec *);
    int result = real_clock_gettime(clock, now);
    if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += control->clock_offset;
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    REAL(int, gettimeofday, struct timeval *, void *);
    int result = real_gettimeofday(now, zone);
    if (!result) now->tv_sec += control->clock_offset;
    return result;
}

time_t time(time_t *result) {
    REAL(time_t, time, time_t *);
    time_t now = real_time(NULL) + control->clock_offset;
    if (result) *result = now;
    return now;
}
