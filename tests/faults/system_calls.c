/* Interferes with the n-th system call that changes a file below a directory.

   arm() puts a seccomp filter before the process: calls that change files trap into
   handle(), which counts those below the directory and kills the process before one of
   them, tears a write in two, or lets calls fail. Everything that reaches the kernel is
   seen, also what the C library does by itself (fwrite, fopen), which a library that
   replaces write() and open() is not asked about. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

#if !defined(__x86_64__) || !defined(__linux__)
#error "written for Linux on x86-64"
#endif

enum { COUNT, KILL, TEAR, FAIL };

static char directory[PATH_MAX];
static long target;
static int action, number, log_fd = -1;
static atomic_long count;

/* As syscall() of the C library. The filter lets through what comes from here: it knows
   the address that a call returns to. */
long pass(long name, ...);
extern char passed[];
__asm__(".text\n"
        ".globl pass\n.hidden pass\n.type pass, @function\n"
        "pass:\n"
        "  mov %rdi, %rax\n  mov %rsi, %rdi\n  mov %rdx, %rsi\n  mov %rcx, %rdx\n"
        "  mov %r8, %r10\n  mov %r9, %r8\n  mov 8(%rsp), %r9\n"
        "  syscall\n"
        ".globl passed\n.hidden passed\n"
        "passed:\n  ret\n");

/* What a call changes: the path, or the open file, that one of its arguments is. */
enum kind { OPEN, WRITE, OTHER };
static const struct call {
  int number;
  const char *name;
  enum kind kind;
  int dirfd, path; /* Which arguments; -1: none, a relative path is the process's. */
  int dirfd2, path2;
  int fd;
} calls[] = {
    {SYS_open, "open", OPEN, -1, 0, -1, -1, -1},
    {SYS_openat, "open", OPEN, 0, 1, -1, -1, -1},
    {SYS_creat, "open", OTHER, -1, 0, -1, -1, -1},
    {SYS_write, "write", WRITE, -1, -1, -1, -1, 0},
    {SYS_pwrite64, "write", WRITE, -1, -1, -1, -1, 0},
    {SYS_writev, "write", WRITE, -1, -1, -1, -1, 0},
    {SYS_pwritev, "write", WRITE, -1, -1, -1, -1, 0},
    {SYS_sendfile, "write", WRITE, -1, -1, -1, -1, 0},
    {SYS_copy_file_range, "write", WRITE, -1, -1, -1, -1, 2},
    {SYS_fallocate, "fallocate", WRITE, -1, -1, -1, -1, 0},
    {SYS_ftruncate, "truncate", OTHER, -1, -1, -1, -1, 0},
    {SYS_truncate, "truncate", OTHER, -1, 0, -1, -1, -1},
    {SYS_fsync, "fsync", OTHER, -1, -1, -1, -1, 0},
    {SYS_fdatasync, "fsync", OTHER, -1, -1, -1, -1, 0},
    {SYS_rename, "rename", OTHER, -1, 0, -1, 1, -1},
    {SYS_renameat, "rename", OTHER, 0, 1, 2, 3, -1},
    {SYS_renameat2, "rename", OTHER, 0, 1, 2, 3, -1},
    {SYS_link, "link", OTHER, -1, 0, -1, 1, -1},
    {SYS_linkat, "link", OTHER, 0, 1, 2, 3, -1},
    {SYS_unlink, "unlink", OTHER, -1, 0, -1, -1, -1},
    {SYS_unlinkat, "unlink", OTHER, 0, 1, -1, -1, -1},
    {SYS_rmdir, "rmdir", OTHER, -1, 0, -1, -1, -1},
    {SYS_mkdir, "mkdir", WRITE, -1, 0, -1, -1, -1},
    {SYS_mkdirat, "mkdir", WRITE, 0, 1, -1, -1, -1},
};
enum { NUM_CALLS = sizeof calls / sizeof *calls };

/* Where an open file lies; nothing of what has no place. Needs PATH_MAX bytes. */
static void place_of(long fd, char *path) {
  char link[40];
  if ((int)fd == AT_FDCWD)
    strcpy(link, "/proc/self/cwd");
  else
    snprintf(link, sizeof link, "/proc/self/fd/%d", (int)fd);
  long length = pass(SYS_readlink, link, path, PATH_MAX - 1);
  path[length > 0 ? length : 0] = 0;
}

static void resolve(long dirfd, const char *name, char *path) {
  path[0] = 0;
  if (name[0] != '/') {
    place_of(dirfd, path);
    strncat(path, "/", PATH_MAX - strlen(path) - 1);
  }
  strncat(path, name, PATH_MAX - strlen(path) - 1);
}

static int is_below(const char *path) {
  size_t length = strlen(directory);
  return !strncmp(path, directory, length) &&
         (path[length] == '/' || path[length] == 0);
}

/* Whether it is the directory that holds the name of ours. */
static int is_parent(const char *path) {
  return strrchr(directory, '/') == directory + strlen(path) &&
         !strncmp(path, directory, strlen(path));
}

static void tear(const struct call *call, const long *args) {
  if (call->number == SYS_write || call->number == SYS_pwrite64)
    pass(call->number, args[0], args[1], args[2] / 2, args[3]);
  else if (call->number == SYS_writev || call->number == SYS_pwritev) {
    const struct iovec *first = (const struct iovec *)args[1];
    struct iovec half = {first->iov_base, (first->iov_len + 1) / 2};
    pass(call->number, args[0], &half, 1L, args[3], args[4]);
  }
}

static void note(long n, const struct call *call, const char *path, const char *to) {
  char line[2 * PATH_MAX + 60];
  int length = snprintf(line, sizeof line, "%ld\t%s\t%s\t%s\n", n, call->name, path, to);
  pass(SYS_write, log_fd, line, length);
}

/* Whether a call fails where no more can be written; all do on a read-only disk. */
static int is_refused(const struct call *call) {
  return call->kind == WRITE || !(number == ENOSPC || number == EDQUOT);
}

static long interfere(const struct call *call, const long *args) {
  char path[PATH_MAX], to[PATH_MAX] = "";
  if (call->fd >= 0)
    place_of(args[call->fd], path);
  else
    resolve(call->dirfd < 0 ? AT_FDCWD : args[call->dirfd],
            (const char *)args[call->path], path);
  if (call->path2 >= 0)
    resolve(call->dirfd2 < 0 ? AT_FDCWD : args[call->dirfd2],
            (const char *)args[call->path2], to);
  int is_synced = !strcmp(call->name, "fsync") && is_parent(path);
  if (is_below(path) || is_below(to) || is_synced) {
    long n = atomic_fetch_add(&count, 1) + 1;
    if (log_fd >= 0)
      note(n, call, path, to);
    if (n == target && action == TEAR)
      tear(call, args);
    if (n == target && (action == TEAR || action == KILL))
      pass(SYS_kill, pass(SYS_getpid), number);
    if (n >= target && action == FAIL && is_refused(call))
      return -number;
  }
  return pass(call->number, args[0], args[1], args[2], args[3], args[4], args[5]);
}

static void handle(int signal, siginfo_t *info, void *context) {
  (void)signal;
  greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
  long args[] = {registers[REG_RDI], registers[REG_RSI], registers[REG_RDX],
                 registers[REG_R10], registers[REG_R8],  registers[REG_R9]};
  for (int i = 0; i < NUM_CALLS; i++)
    if (calls[i].number == info->si_syscall)
      registers[REG_RAX] = interfere(&calls[i], args);
}

static int install_filter(void) {
  uint64_t address = (uint64_t)passed;
  struct sock_filter filter[6 + 6 * NUM_CALLS], *next = filter;
  const struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  const struct sock_filter trap = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
#define LOAD(offset) \
  (struct sock_filter) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset)
#define IF(test, value, yes, no) \
  (struct sock_filter) BPF_JUMP(BPF_JMP | test | BPF_K, value, yes, no)
  const size_t here = offsetof(struct seccomp_data, instruction_pointer);
  *next++ = LOAD(here);
  *next++ = IF(BPF_JEQ, (uint32_t)address, 0, 3);
  *next++ = LOAD(here + 4);
  *next++ = IF(BPF_JEQ, address >> 32, 0, 1);
  *next++ = allow;
  for (int i = 0; i < NUM_CALLS; i++) {
    int is_open = calls[i].kind == OPEN;
    *next++ = LOAD(offsetof(struct seccomp_data, nr));
    *next++ = IF(BPF_JEQ, calls[i].number, 0, is_open ? 4 : 1);
    if (is_open) { /* Who only reads may pass. */
      *next++ = LOAD(offsetof(struct seccomp_data, args) + 8 * (calls[i].path + 1));
      *next++ = IF(BPF_JSET, O_WRONLY | O_RDWR | O_CREAT | O_TRUNC, 1, 0);
      *next++ = allow;
    }
    *next++ = trap;
  }
  *next++ = allow;
  struct sock_fprog program = {next - filter, filter};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    return errno;
  long result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
                        SECCOMP_FILTER_FLAG_TSYNC, &program);
  return result ? errno : 0;
}

/* Returns 0, or why this cannot be had here, an errno.

   where: the directory, as the kernel would call it (no symbolic link in it).
   n: which call, from 1.
   what: COUNT nothing but; KILL before it, by the signal `how`; TEAR: half of a write
       happens, then likewise; FAIL: from it on, calls fail with the errno `how`.
   log: file that each call is written to, or "". */
int arm(const char *where, long n, int what, int how, const char *log) {
  strncpy(directory, where, sizeof directory - 1);
  target = n;
  action = what;
  number = how;
  if (log[0]) {
    int fd = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    log_fd = fcntl(fd, F_DUPFD_CLOEXEC, 500); /* Out of the way of others. */
    close(fd);
    if (log_fd < 0)
      return errno;
  }
  struct sigaction response = {.sa_sigaction = handle,
                               .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
  if (sigaction(SIGSYS, &response, NULL))
    return errno;
  return install_filter();
}
