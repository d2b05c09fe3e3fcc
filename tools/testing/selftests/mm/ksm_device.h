/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The kernel's test_hmm for the ksm_hmm tests: a device that keeps a copy of
 * the process's page tables, and that can take pages into memory of its own,
 * which the CPU cannot see.
 */
#ifndef KSM_DEVICE_H
#define KSM_DEVICE_H

#include <errno.h>
#include <fcntl.h>
#include <lib/test_hmm_uapi.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include "ksm_util.h"
#include "vm_util.h"	/* once for each program: it has no guard */

#define DEVICE_PATH	"/dev/hmm_dmirror0"
#define DEVICE_MAX	64	/* pages at a time */

/**
 * struct ksm_device - the device as one process uses it
 * @fd: it mirrors the page tables of the process that has opened it
 * @buffer: what it reads into and writes from: DEVICE_MAX pages
 */
struct ksm_device {
	int fd;
	char *buffer;
};

/* Why there is no device, or NULL. It is open then. */
static inline const char *device_missing(struct ksm_device *device)
{
	static char why[96];

	device->fd = open(DEVICE_PATH, O_RDWR | O_CLOEXEC);
	device->buffer = ksm_map_pages(DEVICE_MAX);
	if (device->fd >= 0 && device->buffer)
		return NULL;
	snprintf(why, sizeof(why), "needs a kernel with TEST_HMM: " DEVICE_PATH ": %s",
		 strerror(errno));
	return why;
}

/* 0 or -errno. */
static inline int device_asked(struct ksm_device *device, unsigned long command, char *map,
			       size_t pages, void *data)
{
	struct hmm_dmirror_cmd cmd = {
		.addr = (uintptr_t)map,
		.ptr = (uintptr_t)data,
		.npages = pages,
	};

	while (ioctl(device->fd, command, &cmd)) {
		if (errno != EINTR)
			return -errno;
	}
	return 0;
}

/* How many of the pages are in the device's own memory? */
static inline size_t device_has(struct ksm_device *device, char *map, size_t pages)
{
	unsigned char seen[DEVICE_MAX];
	size_t count = 0;

	if (device_asked(device, HMM_DMIRROR_SNAPSHOT, map, pages, seen))
		return SIZE_MAX;
	for (size_t i = 0; i < pages; i++)
		count += (seen[i] & 0xf0) == HMM_DMIRROR_PROT_DEV_PRIVATE_LOCAL;
	return count;
}

/* Takes a page to the device, unless somebody holds it; its bytes as they are there. */
static inline bool device_takes(struct ksm_device *device, char *page, char *bytes)
{
	return !device_asked(device, HMM_DMIRROR_MIGRATE_TO_DEV, page, 1, bytes);
}

/* Those that did not go there with a twin are in the buffer, too. */
static inline bool device_takes_all(struct ksm_device *device, char *map, size_t pages)
{
	for (size_t i = 0; i < pages; i++) {
		size_t offset = i * psize();

		/* It may say that it did where it has an entry of its own left from before. */
		if (!ksm_wait_until(device_has(device, map + offset, 1) == 1 ||
				    (device_takes(device, map + offset, device->buffer + offset) &&
				     device_has(device, map + offset, 1) == 1)))
			return false;
	}
	return device_has(device, map, pages) == pages;
}

static inline bool device_gives_back(struct ksm_device *device, char *map, size_t pages)
{
	return !device_asked(device, HMM_DMIRROR_MIGRATE_TO_SYS, map, pages, NULL);
}

/*
 * Into the buffer, where nothing is left of what was read before. For pages of
 * the CPU only: in its memory test_hmm finds none that came there with a twin.
 */
static inline bool device_reads(struct ksm_device *device, char *map, size_t pages)
{
	memset(device->buffer, 0x55, pages * psize());
	return !device_asked(device, HMM_DMIRROR_READ, map, pages, device->buffer);
}

/* As ksm_first_wrong() and ksm_fill(), but by the device. */
static inline long device_first_wrong(struct ksm_device *device, char *map, size_t pages,
				      uint64_t seed, uint64_t step)
{
	if (!device_reads(device, map, pages))
		return -EIO;
	return ksm_first_wrong(device->buffer, pages, seed, step);
}

static inline bool device_fills(struct ksm_device *device, char *map, size_t pages, uint64_t seed,
				uint64_t step)
{
	ksm_fill(device->buffer, pages, seed, step);
	return !device_asked(device, HMM_DMIRROR_WRITE, map, pages, device->buffer);
}

#endif
