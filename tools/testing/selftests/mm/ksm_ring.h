/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * io_uring for the ksm_* tests: it pins a buffer, and reads files into it without
 * going through the page tables of whoever owns it.
 */
#ifndef KSM_RING_H
#define KSM_RING_H

#include <errno.h>
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include "ksm_util.h"

/* A ring that does one thing at a time. */
struct ksm_ring {
	int fd;
	struct io_uring_params params;
	char *queues;
	struct io_uring_sqe *sqe;
};

static inline unsigned int *ksm_ring_word(struct ksm_ring *ring, unsigned int offset)
{
	return (unsigned int *)(ring->queues + offset);
}

/* 0 or -errno. */
static inline int ksm_ring_open(struct ksm_ring *ring)
{
	const struct io_cqring_offsets *cq = &ring->params.cq_off;
	size_t size;

	ring->fd = syscall(__NR_io_uring_setup, 1, &ring->params);
	if (ring->fd < 0)
		return -errno;
	if (!(ring->params.features & IORING_FEAT_SINGLE_MMAP))
		return -ENOSYS;
	size = cq->cqes + ring->params.cq_entries * sizeof(struct io_uring_cqe);
	if (size < ring->params.sq_off.array + sizeof(int))
		size = ring->params.sq_off.array + sizeof(int);
	ring->queues = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, ring->fd,
			    IORING_OFF_SQ_RING);
	if (ring->queues == MAP_FAILED)
		return -errno;
	ring->sqe = mmap(NULL, sizeof(*ring->sqe), PROT_READ | PROT_WRITE, MAP_SHARED,
			 ring->fd, IORING_OFF_SQES);
	return ring->sqe == MAP_FAILED ? -errno : 0;
}

static inline int ksm_ring_pin(struct ksm_ring *ring, char *map, size_t pages)
{
	struct iovec part = { .iov_base = map, .iov_len = pages * getpagesize() };

	return syscall(__NR_io_uring_register, ring->fd, IORING_REGISTER_BUFFERS, &part, 1) ?
	       -errno : 0;
}

static inline int ksm_ring_unpin(struct ksm_ring *ring)
{
	return syscall(__NR_io_uring_register, ring->fd, IORING_UNREGISTER_BUFFERS, NULL, 0) ?
	       -errno : 0;
}

/* Reads @pages of a file from its start to @to in the pinned buffer. */
static inline int ksm_ring_read(struct ksm_ring *ring, int file, char *to, size_t pages)
{
	const struct io_sqring_offsets *sq = &ring->params.sq_off;
	const struct io_cqring_offsets *cq = &ring->params.cq_off;
	struct io_uring_cqe *cqe = (struct io_uring_cqe *)(ring->queues + cq->cqes);
	unsigned int head = *ksm_ring_word(ring, cq->head);

	*ring->sqe = (struct io_uring_sqe){
		.opcode = IORING_OP_READ_FIXED,
		.fd = file,
		.addr = (uintptr_t)to,
		.len = pages * getpagesize(),
	};
	*ksm_ring_word(ring, sq->array) = 0;
	__atomic_add_fetch(ksm_ring_word(ring, sq->tail), 1, __ATOMIC_RELEASE);
	if (syscall(__NR_io_uring_enter, ring->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) != 1)
		return -errno;
	if (__atomic_load_n(ksm_ring_word(ring, cq->tail), __ATOMIC_ACQUIRE) == head)
		return -EIO;
	cqe += head & *ksm_ring_word(ring, cq->ring_mask);
	__atomic_store_n(ksm_ring_word(ring, cq->head), head + 1, __ATOMIC_RELEASE);
	return cqe->res == (int)(pages * getpagesize()) ? 0 : -EIO;
}

#endif
