/*
 * Preloaded into a server: sees every operation that changes files below one directory, and makes some of them fail.
 *
 *   SHIM_DIRECTORY  the directory, an absolute path without links. Without it nothing is done.
 *   SHIM_TRACE      file to append operations to, in the order in which they complete.
 *   SHIM_NO_SYNC    syncs do nothing and are not traced: the protection is gone.
 *   SHIM_CONTROL    file of a struct control, shared with the test: faults are switched on and off under load.
 *
 * One lock is held around each operation and its record; only syncs run outside, with a record before and one after.
 * Calls through the C library are seen because they are defined here. Calls that the program makes by itself are
 * caught by a seccomp filter on the place they are made from, and led here by SIGSYS. What cannot be followed (writable
 * shared maps, files moved in from elsewhere) is traced as UNSUPPORTED, and the reader of the trace refuses it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <linux/audit.h>
#include <linux/falloc.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

enum kind {
	ROOT = 1, /* inode of the directory; once for each process */
	CREATE, /* inode, path */
	MKDIR, /* inode, path */
	WRITE, /* inode, a = offset, data */
	ZERO, /* inode, a = offset, b = length */
	SIZE, /* inode, a = length */
	RENAME, /* path, second path */
	LINK, /* inode, path, second path */
	UNLINK, /* path */
	RMDIR, /* path */
	SYNC_BEGIN, /* inode, a = token */
	SYNC_END, /* inode, a = token, b = 1 if it succeeded */
	UNSUPPORTED, /* path = what was tried */
	FAULT, /* a = errno that was given instead of an operation */
};

struct record {
	uint32_t magic, kind;
	uint64_t inode, a, b;
	uint32_t first, second; /* bytes that follow: data or path, second path */
};

#define MAGIC 0x5348494du

/* DISK_FULL: what is there can be written over, and no file grows. WRITE_NO_SPACE: not even that, as where files are copied on
 * write. */
enum fault { NONE, WRITE_NO_SPACE, WRITE_FAILS, SYNC_FAILS, WRITE_SHORT, DISK_FULL };

/* The test writes all but `seen` and `hits`. */
struct control {
	uint64_t fault;
	uint64_t after; /* operations of that kind that still succeed */
	uint64_t times; /* how often it fails; 0 is for ever */
	uint64_t seen, hits;
	uint64_t die; /* the process kills itself after its next record: none is then between an operation and its record */
};

struct watched {
	uint8_t on, append, directory;
	uint64_t inode;
};

#define FDS 65536
static struct watched fds[FDS];
static char root[PATH_MAX];
static size_t root_length;
static int trace = -1, no_sync;
static uint64_t token;
static volatile struct control *control;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void die(const char *what)
{
	dprintf(2, "shim: %s: %s\n", what, strerror(errno));
	abort();
}

static void record(enum kind kind, uint64_t inode, uint64_t a, uint64_t b, const struct iovec *data, int parts,
	size_t length, const char *second)
{
	if (trace < 0)
		return;
	struct record head = { MAGIC, kind, inode, a, b, length, second ? strlen(second) : 0 };
	struct iovec all[1026] = { { &head, sizeof head } };
	size_t left = length;
	int count = 1;
	for (int i = 0; i < parts && left; i++) {
		size_t part = data[i].iov_len < left ? data[i].iov_len : left;
		all[count++] = (struct iovec){ data[i].iov_base, part };
		left -= part;
	}
	if (second)
		all[count++] = (struct iovec){ (void *)second, head.second };
	ssize_t expected = sizeof head + head.first + head.second;
	if (syscall(SYS_writev, trace, all, count) != expected)
		die("the trace cannot be written");
	if (control && control->die)
		syscall(SYS_kill, getpid(), SIGKILL);
}

static void named(enum kind kind, uint64_t inode, const char *path, const char *second)
{
	struct iovec data = { (void *)path, strlen(path) };
	record(kind, inode, 0, 0, &data, 1, data.iov_len, second);
}

static int all_zero(const struct iovec *data, int parts)
{
	for (int i = 0; i < parts; i++) {
		const char *bytes = data[i].iov_base;
		size_t length = data[i].iov_len;
		if (length && (bytes[0] || memcmp(bytes, bytes + 1, length - 1)))
			return 0;
	}
	return 1;
}

/* The path below the directory, "" for itself; 0 if it is elsewhere. */
static int below(const char *absolute, char *out)
{
	if (!root_length || strncmp(absolute, root, root_length))
		return 0;
	if (absolute[root_length] && absolute[root_length] != '/')
		return 0;
	const char *rest = absolute + root_length;
	strcpy(out, *rest ? rest + 1 : rest);
	return 1;
}

static int resolve(int at, const char *path, char *out)
{
	char whole[2 * PATH_MAX], parent[PATH_MAX], link[64];
	int saved = errno;
	if (path[0] == '/') {
		snprintf(whole, sizeof whole, "%s", path);
	} else {
		char base[PATH_MAX];
		ssize_t length;
		if (at == AT_FDCWD)
			length = readlink("/proc/self/cwd", base, sizeof base - 1);
		else
			snprintf(link, sizeof link, "/proc/self/fd/%d", at), length = readlink(link, base, sizeof base - 1);
		base[length < 0 ? 0 : length] = 0;
		snprintf(whole, sizeof whole, "%s/%s", base, path);
	}
	size_t length = strlen(whole);
	while (length > 1 && whole[length - 1] == '/')
		whole[--length] = 0;
	char *slash = strrchr(whole, '/');
	int found = 0;
	if (slash && slash != whole) {
		*slash = 0;
		if (realpath(whole, parent)) {
			snprintf(whole, sizeof whole, "%s/%s", parent, strdupa(slash + 1));
			found = below(whole, out);
		}
	}
	errno = saved;
	return found;
}

static struct watched *on(int fd)
{
	return fd >= 0 && fd < FDS && fds[fd].on ? &fds[fd] : NULL;
}

/* Takes the next fault of a kind; 0 if the operation may go on. */
static int fails(int sync)
{
	if (!control || control->fault == NONE || (control->fault == SYNC_FAILS) != sync)
		return NONE;
	int fault = control->fault;
	uint64_t seen = control->seen++;
	if (seen < control->after || (control->times && seen >= control->after + control->times))
		return NONE;
	control->hits++;
	return fault;
}

static int refuse(int code)
{
	record(FAULT, 0, code, 0, NULL, 0, 0, NULL);
	errno = code;
	return -1;
}

/* A name more: what a failing disk fails. A full one has room for it in a directory that is there. */
static int growth_fails(void)
{
	int fault = control && (control->fault == WRITE_SHORT || control->fault == DISK_FULL) ? NONE : fails(0);
	return fault == WRITE_NO_SPACE ? refuse(ENOSPC) : fault == WRITE_FAILS ? refuse(EIO) : 0;
}

/* A file more: what a full disk refuses and a failing one fails. */
static int extension_fails(void)
{
	if (control && control->fault == DISK_FULL)
		return fails(0) ? refuse(ENOSPC) : 0;
	return growth_fails();
}

/* True if a write goes past the end of the file. */
static int extends(int fd, const struct iovec *data, int parts, off_t offset)
{
	struct stat stat;
	size_t length = 0;
	for (int i = 0; i < parts; i++)
		length += data[i].iov_len;
	if (syscall(SYS_fstat, fd, &stat))
		return 1;
	if (offset < 0)
		offset = fds[fd].append ? stat.st_size : syscall(SYS_lseek, fd, 0L, SEEK_CUR);
	return length && offset + (off_t)length > stat.st_size;
}

static int open_in(int at, const char *path, int flags, mode_t mode)
{
	char relative[PATH_MAX], link[64], real[PATH_MAX];
	struct stat stat, before;
	pthread_mutex_lock(&lock);
	int ours = (flags & (O_CREAT | O_TRUNC)) && resolve(at, path, relative);
	int existed = ours && syscall(SYS_newfstatat, at, path, &before, 0) == 0;
	int fd = ours && !existed && growth_fails() ? -1 : syscall(SYS_openat, at, path, flags, mode);
	if (fd >= 0 && fd < FDS) {
		int saved = errno;
		fds[fd].on = 0;
		snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
		ssize_t length = readlink(link, real, sizeof real - 1);
		real[length < 0 ? 0 : length] = 0;
		if (below(real, relative) && syscall(SYS_fstat, fd, &stat) == 0) {
			fds[fd] = (struct watched){ 1, (flags & O_APPEND) != 0, S_ISDIR(stat.st_mode), stat.st_ino };
			if ((flags & O_TMPFILE) == O_TMPFILE)
				named(UNSUPPORTED, 0, "O_TMPFILE", NULL);
			else if ((flags & O_CREAT) && !existed)
				named(CREATE, stat.st_ino, relative, NULL);
			else if ((flags & O_TRUNC) && existed && before.st_size)
				record(SIZE, stat.st_ino, 0, 0, NULL, 0, 0, NULL);
		}
		errno = saved;
	}
	pthread_mutex_unlock(&lock);
	return fd;
}

static mode_t mode_of(int flags, va_list rest)
{
	return (flags & (O_CREAT | __O_TMPFILE)) ? va_arg(rest, mode_t) : 0;
}

#define OPEN(name) \
	int name(const char *path, int flags, ...) \
	{ \
		va_list rest; \
		va_start(rest, flags); \
		mode_t mode = mode_of(flags, rest); \
		va_end(rest); \
		return open_in(AT_FDCWD, path, flags, mode); \
	}
#define OPENAT(name) \
	int name(int at, const char *path, int flags, ...) \
	{ \
		va_list rest; \
		va_start(rest, flags); \
		mode_t mode = mode_of(flags, rest); \
		va_end(rest); \
		return open_in(at, path, flags, mode); \
	}
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
int creat(const char *path, mode_t mode) { return open_in(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

int close(int fd)
{
	pthread_mutex_lock(&lock);
	if (fd >= 0 && fd < FDS)
		fds[fd].on = 0;
	int result = syscall(SYS_close, fd);
	pthread_mutex_unlock(&lock);
	return result;
}

static int copied(int from, int to)
{
	if (to >= 0 && to < FDS && from != to)
		fds[to] = from >= 0 && from < FDS ? fds[from] : (struct watched){ 0 };
	return to;
}
#define LOCKED(type, work) \
	pthread_mutex_lock(&lock); \
	type result = work; \
	pthread_mutex_unlock(&lock); \
	return result;
int dup(int fd) { LOCKED(int, copied(fd, syscall(SYS_dup, fd))) }
int dup2(int fd, int to) { LOCKED(int, copied(fd, syscall(SYS_dup2, fd, to))) }
int dup3(int fd, int to, int flags) { LOCKED(int, copied(fd, syscall(SYS_dup3, fd, to, flags))) }

#define FCNTL(name) \
	int name(int fd, int command, ...) \
	{ \
		va_list rest; \
		va_start(rest, command); \
		long argument = va_arg(rest, long); \
		va_end(rest); \
		pthread_mutex_lock(&lock); \
		int result = syscall(SYS_fcntl, fd, command, argument); \
		if (result >= 0 && (command == F_DUPFD || command == F_DUPFD_CLOEXEC)) \
			copied(fd, result); \
		if (result >= 0 && command == F_SETFL && on(fd)) \
			fds[fd].append = (argument & O_APPEND) != 0; \
		pthread_mutex_unlock(&lock); \
		return result; \
	}
FCNTL(fcntl)
FCNTL(fcntl64)

/* `offset` -1: where the file stands. */
static ssize_t write_in(int fd, const struct iovec *data, int parts, off_t offset, int flags)
{
	if (!on(fd)) {
		if (offset < 0)
			return parts == 1 ? syscall(SYS_write, fd, data->iov_base, data->iov_len) : syscall(SYS_writev, fd, data, parts);
		return syscall(SYS_pwritev2, fd, data, parts, offset, 0L, flags);
	}
	pthread_mutex_lock(&lock);
	struct watched *file = &fds[fd];
	struct iovec half;
	int full = control && control->fault == DISK_FULL;
	int fault = full && !extends(fd, data, parts, offset) ? NONE : fails(0);
	if (fault == WRITE_NO_SPACE || fault == WRITE_FAILS || fault == DISK_FULL) {
		refuse(fault == WRITE_FAILS ? EIO : ENOSPC);
		pthread_mutex_unlock(&lock);
		return -1;
	}
	if (fault == WRITE_SHORT && parts && data->iov_len > 1) {
		half = (struct iovec){ data->iov_base, data->iov_len / 2 };
		data = &half, parts = 1;
		record(FAULT, 0, 0, 0, NULL, 0, 0, NULL);
	}
	ssize_t written;
	off_t at = offset;
	if (offset < 0) {
		at = file->append ? 0 : syscall(SYS_lseek, fd, 0L, SEEK_CUR);
		written = syscall(SYS_writev, fd, data, parts);
		if (file->append)
			at = syscall(SYS_lseek, fd, 0L, SEEK_CUR) - written;
	} else {
		if (file->append)
			named(UNSUPPORTED, 0, "pwrite to a file in append mode", NULL);
		written = syscall(SYS_pwritev2, fd, data, parts, offset, 0L, flags);
	}
	int saved = errno;
	if (written > 0 && written >= 4096 && all_zero(data, parts))
		record(ZERO, file->inode, at, written, NULL, 0, 0, NULL);
	else if (written > 0)
		record(WRITE, file->inode, at, 0, data, parts, written, NULL);
	errno = saved;
	pthread_mutex_unlock(&lock);
	return written;
}

ssize_t write(int fd, const void *data, size_t length)
{
	struct iovec one = { (void *)data, length };
	return write_in(fd, &one, 1, -1, 0);
}
ssize_t pwrite(int fd, const void *data, size_t length, off_t offset)
{
	struct iovec one = { (void *)data, length };
	return write_in(fd, &one, 1, offset, 0);
}
ssize_t pwrite64(int fd, const void *data, size_t length, off_t offset) { return pwrite(fd, data, length, offset); }
ssize_t writev(int fd, const struct iovec *data, int parts) { return write_in(fd, data, parts, -1, 0); }
ssize_t pwritev(int fd, const struct iovec *data, int parts, off_t offset) { return write_in(fd, data, parts, offset, 0); }
ssize_t pwritev64(int fd, const struct iovec *data, int parts, off_t offset) { return write_in(fd, data, parts, offset, 0); }
ssize_t pwritev2(int fd, const struct iovec *data, int parts, off_t offset, int flags) { return write_in(fd, data, parts, offset, flags); }
ssize_t pwritev64v2(int fd, const struct iovec *data, int parts, off_t offset, int flags) { return write_in(fd, data, parts, offset, flags); }

int ftruncate(int fd, off_t length)
{
	if (!on(fd))
		return syscall(SYS_ftruncate, fd, length);
	pthread_mutex_lock(&lock);
	int result = length && extension_fails() ? -1 : syscall(SYS_ftruncate, fd, length);
	if (result == 0)
		record(SIZE, fds[fd].inode, length, 0, NULL, 0, 0, NULL);
	pthread_mutex_unlock(&lock);
	return result;
}
int ftruncate64(int fd, off_t length) { return ftruncate(fd, length); }
int truncate(const char *path, off_t length)
{
	int fd = open_in(AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	int result = ftruncate(fd, length), saved = errno;
	close(fd);
	errno = saved;
	return result;
}
int truncate64(const char *path, off_t length) { return truncate(path, length); }

int fallocate(int fd, int mode, off_t offset, off_t length)
{
	if (!on(fd))
		return syscall(SYS_fallocate, fd, mode, offset, length);
	pthread_mutex_lock(&lock);
	struct stat stat;
	int result = extension_fails() ? -1 : syscall(SYS_fallocate, fd, mode, offset, length), saved = errno;
	if (result == 0) {
		if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
			record(ZERO, fds[fd].inode, offset, length, NULL, 0, 0, NULL);
		if (mode & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE))
			named(UNSUPPORTED, 0, "fallocate that moves data", NULL);
		if (syscall(SYS_fstat, fd, &stat) == 0)
			record(SIZE, fds[fd].inode, stat.st_size, 0, NULL, 0, 0, NULL);
	}
	errno = saved;
	pthread_mutex_unlock(&lock);
	return result;
}
int fallocate64(int fd, int mode, off_t offset, off_t length) { return fallocate(fd, mode, offset, length); }
int posix_fallocate(int fd, off_t offset, off_t length)
{
	int saved = errno, result = fallocate(fd, 0, offset, length) ? errno : 0;
	errno = saved;
	return result;
}
int posix_fallocate64(int fd, off_t offset, off_t length) { return posix_fallocate(fd, offset, length); }

static uint64_t inode_of(int at, const char *path)
{
	struct stat stat;
	return syscall(SYS_newfstatat, at, path, &stat, AT_SYMLINK_NOFOLLOW) ? 0 : stat.st_ino;
}

int renameat2(int from_at, const char *from, int to_at, const char *to, unsigned flags)
{
	char a[PATH_MAX], b[PATH_MAX];
	pthread_mutex_lock(&lock);
	int ours = resolve(from_at, from, a), theirs = resolve(to_at, to, b);
	int result = ours && growth_fails() ? -1 : syscall(SYS_renameat2, from_at, from, to_at, to, flags), saved = errno;
	if (result == 0 && (ours != theirs || (ours && (flags & RENAME_EXCHANGE))))
		named(UNSUPPORTED, 0, "a rename across the border, or an exchange", NULL);
	else if (result == 0 && ours)
		named(RENAME, 0, a, b);
	errno = saved;
	pthread_mutex_unlock(&lock);
	return result;
}
int renameat(int from_at, const char *from, int to_at, const char *to) { return renameat2(from_at, from, to_at, to, 0); }
int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }

int linkat(int from_at, const char *from, int to_at, const char *to, int flags)
{
	char a[PATH_MAX], b[PATH_MAX];
	pthread_mutex_lock(&lock);
	int ours = resolve(from_at, from, a), theirs = resolve(to_at, to, b);
	int result = theirs && growth_fails() ? -1 : syscall(SYS_linkat, from_at, from, to_at, to, flags), saved = errno;
	if (result == 0 && theirs)
		ours ? named(LINK, inode_of(to_at, to), a, b) : named(UNSUPPORTED, 0, "a link from elsewhere", NULL);
	errno = saved;
	pthread_mutex_unlock(&lock);
	return result;
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int symlinkat(const char *target, int at, const char *path)
{
	char relative[PATH_MAX];
	pthread_mutex_lock(&lock);
	int result = syscall(SYS_symlinkat, target, at, path), saved = errno;
	if (result == 0 && resolve(at, path, relative))
		named(UNSUPPORTED, 0, "a symbolic link", NULL);
	errno = saved;
	pthread_mutex_unlock(&lock);
	return result;
}
int symlink(const char *target, const char *path) { return symlinkat(target, AT_FDCWD, path); }

int unlinkat(int at, const char *path, int flags)
{
	char relative[PATH_MAX];
	pthread_mutex_lock(&lock);
	int ours = resolve(at, path, relative);
	int result = syscall(SYS_unlinkat, at, path, flags);
	if (result == 0 && ours)
		named((flags & AT_REMOVEDIR) ? RMDIR : UNLINK, 0, relative, NULL);
	pthread_mutex_unlock(&lock);
	return result;
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int at, const char *path, mode_t mode)
{
	char relative[PATH_MAX];
	pthread_mutex_lock(&lock);
	int ours = resolve(at, path, relative);
	int result = ours && inode_of(at, path) == 0 && growth_fails() ? -1 : syscall(SYS_mkdirat, at, path, mode);
	if (result == 0 && ours)
		named(MKDIR, inode_of(at, path), relative, NULL);
	pthread_mutex_unlock(&lock);
	return result;
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

static int sync_in(int fd, long call)
{
	pthread_mutex_lock(&lock);
	struct watched *file = on(fd);
	if (!file) {
		pthread_mutex_unlock(&lock);
		return syscall(call, fd);
	}
	int failed = fails(1) ? refuse(EIO) : 0;
	if (failed || no_sync) {
		pthread_mutex_unlock(&lock);
		return failed;
	}
	uint64_t mine = ++token, inode = file->inode;
	record(SYNC_BEGIN, inode, mine, 0, NULL, 0, 0, NULL);
	pthread_mutex_unlock(&lock);
	int result = syscall(call, fd), saved = errno;
	pthread_mutex_lock(&lock);
	record(SYNC_END, inode, mine, result == 0, NULL, 0, 0, NULL);
	pthread_mutex_unlock(&lock);
	errno = saved;
	return result;
}
int fsync(int fd) { return sync_in(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_in(fd, SYS_fdatasync); }

void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
	if (on(fd) && (flags & MAP_TYPE) != MAP_PRIVATE && (protection & PROT_WRITE)) {
		pthread_mutex_lock(&lock);
		named(UNSUPPORTED, 0, "a writable shared map", NULL);
		pthread_mutex_unlock(&lock);
	}
	return (void *)syscall(SYS_mmap, address, length, protection, flags, fd, offset);
}
void *mmap64(void *address, size_t length, int protection, int flags, int fd, off_t offset) { return mmap(address, length, protection, flags, fd, offset); }

/* Callers then read and write. */
ssize_t copy_file_range(int from, off_t *from_offset, int to, off_t *to_offset, size_t length, unsigned flags)
{
	(void)from, (void)from_offset, (void)to, (void)to_offset, (void)length, (void)flags;
	errno = ENOSYS;
	return -1;
}
ssize_t sendfile(int to, int from, off_t *offset, size_t length)
{
	if (on(to))
		return errno = EINVAL, -1;
	return syscall(SYS_sendfile, to, from, offset, length);
}
ssize_t sendfile64(int to, int from, off_t *offset, size_t length) { return sendfile(to, from, offset, length); }

/* Calls that the program makes without the C library, and that change a disk or what a number stands for. */
static const int caught[] = { SYS_open, SYS_openat, SYS_creat, SYS_close, SYS_dup, SYS_dup2, SYS_dup3, SYS_fcntl, SYS_write, SYS_pwrite64,
	SYS_writev, SYS_pwritev, SYS_pwritev2, SYS_truncate, SYS_ftruncate, SYS_fallocate, SYS_rename, SYS_renameat,
	SYS_renameat2, SYS_link, SYS_linkat, SYS_symlink, SYS_symlinkat, SYS_unlink, SYS_unlinkat, SYS_rmdir, SYS_mkdir,
	SYS_mkdirat, SYS_fsync, SYS_fdatasync, SYS_mmap, SYS_copy_file_range, SYS_sendfile };

static long again(int number, const greg_t *r)
{
	long a = r[REG_RDI], b = r[REG_RSI], c = r[REG_RDX], d = r[REG_R10], e = r[REG_R8], f = r[REG_R9];
	switch (number) {
	case SYS_open: return open_in(AT_FDCWD, (char *)a, b, c);
	case SYS_openat: return open_in(a, (char *)b, c, d);
	case SYS_creat: return creat((char *)a, b);
	case SYS_close: return close(a);
	case SYS_dup: return dup(a);
	case SYS_dup2: return dup2(a, b);
	case SYS_dup3: return dup3(a, b, c);
	case SYS_fcntl: return fcntl(a, b, c);
	case SYS_write: return write(a, (void *)b, c);
	case SYS_pwrite64: return pwrite(a, (void *)b, c, d);
	case SYS_writev: return writev(a, (void *)b, c);
	case SYS_pwritev: return pwritev(a, (void *)b, c, d);
	case SYS_pwritev2: return pwritev2(a, (void *)b, c, d, f);
	case SYS_truncate: return truncate((char *)a, b);
	case SYS_ftruncate: return ftruncate(a, b);
	case SYS_fallocate: return fallocate(a, b, c, d);
	case SYS_rename: return rename((char *)a, (char *)b);
	case SYS_renameat: return renameat(a, (char *)b, c, (char *)d);
	case SYS_renameat2: return renameat2(a, (char *)b, c, (char *)d, e);
	case SYS_link: return link((char *)a, (char *)b);
	case SYS_linkat: return linkat(a, (char *)b, c, (char *)d, e);
	case SYS_symlink: return symlink((char *)a, (char *)b);
	case SYS_symlinkat: return symlinkat((char *)a, b, (char *)c);
	case SYS_unlink: return unlink((char *)a);
	case SYS_unlinkat: return unlinkat(a, (char *)b, c);
	case SYS_rmdir: return rmdir((char *)a);
	case SYS_mkdir: return mkdir((char *)a, b);
	case SYS_mkdirat: return mkdirat(a, (char *)b, c);
	case SYS_fsync: return fsync(a);
	case SYS_fdatasync: return fdatasync(a);
	case SYS_mmap: return (long)mmap((void *)a, b, c, d, e, f);
	case SYS_copy_file_range: return copy_file_range(a, (void *)b, c, (void *)d, e, f);
	case SYS_sendfile: return sendfile(a, b, (void *)c, d);
	default: return syscall(number, a, b, c, d, e, f);
	}
}

static void trapped(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
	int saved = errno;
	long result = again(info->si_syscall, registers);
	registers[REG_RAX] = result == -1 ? -errno : result;
	errno = saved;
}

struct text {
	uint64_t start, end;
};

static int program(struct dl_phdr_info *info, size_t size, void *out)
{
	(void)size;
	struct text *text = out;
	for (int i = 0; i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_LOAD && (info->dlpi_phdr[i].p_flags & PF_X)) {
			text->start = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
			text->end = text->start + info->dlpi_phdr[i].p_memsz;
		}
	return 1; /* the first one is the program */
}

/* Traps `caught` where the instruction lies in the program, not in a library. */
static void catch_own_calls(void)
{
	enum { CALLS = sizeof caught / sizeof *caught };
	struct text text = { 0 };
	dl_iterate_phdr(program, &text);
	struct sock_filter filter[32 + 2 * CALLS];
	int n = 0;
	/* The text may lie across a border of 4 GiB: one test for each side. */
	uint64_t border = (text.start | UINT32_MAX) + 1;
	struct text sides[2] = { { text.start, text.end < border ? text.end : border }, { border, text.end } };
	filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
	filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
	filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	for (int side = 0; side < 2 && sides[side].start < sides[side].end; side++) {
		filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer) + 4);
		filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, sides[side].start >> 32, 0, CALLS + 6);
		filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer));
		filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, (uint32_t)sides[side].start, 0, CALLS + 4);
		filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, (uint32_t)(sides[side].end - 1), CALLS + 3, 0);
		filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
		for (int i = 0; i < CALLS; i++)
			filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, caught[i], CALLS - i, 0);
		filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JA, 1, 0, 0);
		filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
	}
	filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sigaction action = { .sa_sigaction = trapped, .sa_flags = SA_SIGINFO | SA_NODEFER };
	if (sigaction(SIGSYS, &action, NULL))
		die("SIGSYS cannot be taken");
	struct sock_fprog all = { n, filter };
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &all))
		die("seccomp is not permitted");
}

/* No thread is between an operation and its record when the process ends. */
__attribute__((destructor)) static void end(void)
{
	pthread_mutex_lock(&lock);
}

__attribute__((constructor)) static void begin(void)
{
	const char *directory = getenv("SHIM_DIRECTORY"), *path = getenv("SHIM_TRACE"), *shared = getenv("SHIM_CONTROL");
	if (!directory)
		return;
	snprintf(root, sizeof root, "%s", directory);
	no_sync = getenv("SHIM_NO_SYNC") != NULL;
	if (shared) {
		int fd = syscall(SYS_openat, AT_FDCWD, shared, O_RDWR | O_CLOEXEC, 0);
		void *page = fd < 0 ? MAP_FAILED : (void *)syscall(SYS_mmap, NULL, 4096L, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0L);
		if (page == MAP_FAILED)
			die(shared);
		control = page;
	}
	if (path && (trace = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644)) < 0)
		die(path);
	/* Tokens of processes that share a trace differ. */
	token = (uint64_t)getpid() << 32;
	struct stat stat;
	if (syscall(SYS_newfstatat, AT_FDCWD, root, &stat, 0))
		die(root);
	root_length = strlen(root);
	record(ROOT, stat.st_ino, 0, 0, NULL, 0, 0, NULL);
	catch_own_calls();
}
