/* Records what a power cut would leave on a disk: the content of each file and the names in each
   folder at its last sync.

   LD_PRELOAD loads it into every process. $POWER_LOG/events gets a line for each sync:

       file KEY PATH            its content is in $POWER_LOG/N, N the line's number from 1
       folder KEY PATH          in $POWER_LOG/N a line for each name: f or d, its KEY, the name

   A KEY identifies a file across renames: its inode and the time of the inode's birth. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEY 64

static int key_of(int folder, const char *name, char *key, int *is_folder) {
    struct statx s;
    int flags = AT_SYMLINK_NOFOLLOW | (*name ? 0 : AT_EMPTY_PATH);
    if (statx(folder, name, flags, STATX_BASIC_STATS | STATX_BTIME, &s)) return -1;
    *is_folder = S_ISDIR(s.stx_mode);
    if (!*is_folder && !S_ISREG(s.stx_mode)) return -1;
    snprintf(key, KEY, "%llu-%lld.%u", (unsigned long long)s.stx_ino,
             (long long)s.stx_btime.tv_sec, s.stx_btime.tv_nsec);
    return 0;
}

static void keep_names(const char *path, FILE *to) {
    DIR *folder = opendir(path);
    if (!folder) abort();
    for (struct dirent *each; (each = readdir(folder));) {
        char key[KEY];
        int is_folder;
        if (!strcmp(each->d_name, ".") || !strcmp(each->d_name, "..")) continue;
        if (key_of(dirfd(folder), each->d_name, key, &is_folder)) continue; /* just removed */
        fprintf(to, "%c %s %s\n", is_folder ? 'd' : 'f', key, each->d_name);
    }
    closedir(folder);
}

static void keep_content(int fd, FILE *to) {
    char own[64], block[1 << 16];
    /* Closing a second descriptor of a database would release SQLite's locks. */
    int readable = (fcntl(fd, F_GETFL) & O_ACCMODE) != O_WRONLY;
    snprintf(own, sizeof own, "/proc/self/fd/%d", fd);
    int from = readable ? fd : open(own, O_RDONLY | O_CLOEXEC);
    off_t at = 0;
    for (ssize_t n; (n = pread(from, block, sizeof block, at)) > 0; at += n)
        fwrite(block, 1, n, to);
    if (!readable) close(from);
}

static void note(int fd) {
    const char *log = getenv("POWER_LOG"), *disk = getenv("POWER_DISK");
    char own[64], path[PATH_MAX], key[KEY], name[PATH_MAX];
    int is_folder;
    if (!log || !disk) return;
    snprintf(own, sizeof own, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(own, path, sizeof path - 1);
    if (length < 0) return;
    path[length] = 0;
    if (strncmp(path, disk, strlen(disk)) || key_of(fd, "", key, &is_folder)) return;
    snprintf(name, sizeof name, "%s/events", log);
    int events = open(name, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (events < 0 || flock(events, LOCK_EX)) abort();
    int number = 1;
    char block[1 << 16];
    for (ssize_t n; (n = read(events, block, sizeof block)) > 0;)
        for (ssize_t i = 0; i < n; i++) number += block[i] == '\n';
    snprintf(name, sizeof name, "%s/%d", log, number);
    FILE *to = fopen(name, "we");
    if (!to) abort();
    if (is_folder) keep_names(own, to);
    else keep_content(fd, to);
    fclose(to);
    dprintf(events, "%s %s %s\n", is_folder ? "folder" : "file", key, path);
    close(events);
}

#define SYNC(name)                                            \
    int name(int fd) {                                        \
        int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, #name); \
        int failed = real(fd);                                \
        if (!failed) note(fd);                                \
        return failed;                                        \
    }

SYNC(fsync)
SYNC(fdatasync)
