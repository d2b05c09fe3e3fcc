/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Ways to write to a worker's page for the ksm_* tests, other than that its own
 * code stores there.
 */
#ifndef KSM_WAYS_H
#define KSM_WAYS_H

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/uio.h>
#include <unistd.h>
#include "ksm_util.h"

/**
 * typedef ksm_way - write one page
 * @worker: whose page
 * @to: the page
 * @content: what to write; mapped when the worker was forked, so it has it too
 *
 * Return: 0 or -errno, -ENOSYS where the kernel knows no such way.
 */
typedef long (*ksm_way)(struct ksm_worker *worker, char *to, char *content);

static inline long ksm_whole_page(ssize_t done)
{
	if (done < 0)
		return -errno;
	return (size_t)done == (size_t)getpagesize() ? 0 : -EIO;
}

/* read(2) stores into its buffer from inside the kernel. */
static inline long ksm_job_read(struct ksm_worker *worker, long to, long content, long unused)
{
	int fd = open("/proc/self/mem", O_RDONLY);
	long error;

	if (fd < 0)
		return -errno;
	error = ksm_whole_page(pread(fd, (char *)to, getpagesize(), content));
	close(fd);
	return error;
}

static inline long ksm_write_by_read(struct ksm_worker *worker, char *to, char *content)
{
	return ksm_ask(worker, ksm_job_read, (long)to, (long)content, 0);
}

static inline long ksm_write_by_process_vm(struct ksm_worker *worker, char *to, char *content)
{
	struct iovec local = { content, getpagesize() }, remote = { to, getpagesize() };

	return ksm_whole_page(process_vm_writev(worker->pid, &local, 1, &remote, 1, 0));
}

static inline long ksm_write_by_proc_mem(struct ksm_worker *worker, char *to, char *content)
{
	char path[64];
	long error;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/mem", worker->pid);
	fd = open(path, O_RDWR);
	if (fd < 0)
		return -errno;
	error = ksm_whole_page(pwrite(fd, content, getpagesize(), (uintptr_t)to));
	close(fd);
	return error;
}

#endif
