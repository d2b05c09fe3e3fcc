// SPDX-License-Identifier: GPL-2.0-only
/*
 * No change is missed. A page that ksmd has passed over for long, for nobody wrote
 * to it, becomes equal to another such page, in one of all the ways in which a page
 * can get a new content. They must be merged a stated number of passes later, and
 * pages that were not written to must stay as and where they are.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include "ksm_ring.h"
#include "ksm_settled.h"
#include "ksm_util.h"
#include "ksm_ways.h"

#define ROUNDS	4

/* ---- ways to change a page; jobs of the owner: to, content ---- */

static char *thread_args[2];

static void *store_args(void *unused)
{
	memcpy(thread_args[0], thread_args[1], psize());
	return NULL;
}

static long job_store_by_thread(struct ksm_worker *worker, long to, long content, long unused)
{
	pthread_t thread;

	thread_args[0] = (char *)to;
	thread_args[1] = (char *)content;
	if (pthread_create(&thread, NULL, store_args, NULL))
		return -EAGAIN;
	return -pthread_join(thread, NULL);
}

static long job_read_pipe(struct ksm_worker *worker, long to, long content, long unused)
{
	long error;
	int fd[2];

	if (pipe(fd))
		return -errno;
	error = ksm_whole_page(write(fd[1], (char *)content, psize()));
	error = error ? error : ksm_whole_page(read(fd[0], (char *)to, psize()));
	close(fd[0]);
	close(fd[1]);
	return error;
}

/* A file with the content, or -errno. */
static int file_of(const char *content)
{
	int fd = memfd_create("ksm_change", 0);
	long error;

	if (fd < 0)
		return -errno;
	error = ksm_whole_page(pwrite(fd, content, psize(), 0));
	if (!error)
		return fd;
	close(fd);
	return error;
}

static long job_read_file(struct ksm_worker *worker, long to, long content, long unused)
{
	int fd = file_of((char *)content);
	long error;

	if (fd < 0)
		return fd;
	error = ksm_whole_page(pread(fd, (char *)to, psize(), 0));
	close(fd);
	return error;
}

static struct ksm_ring ring;

static long job_pin(struct ksm_worker *worker, long to, long pages, long unused)
{
	long error = ring.sqe ? 0 : ksm_ring_open(&ring);

	return error ? error : ksm_ring_pin(&ring, (char *)to, pages);
}

static long job_write_pinned(struct ksm_worker *worker, long to, long content, long unused)
{
	int fd = file_of((char *)content);
	long error;

	if (fd < 0)
		return fd;
	error = ksm_ring_read(&ring, fd, (char *)to, 1);
	close(fd);
	return error;
}

static long job_unpin(struct ksm_worker *worker, long unused, long unused2, long unused3)
{
	return ksm_ring_unpin(&ring);
}

static long job_fixed_buffer(struct ksm_worker *worker, long to, long content, long unused)
{
	long error = job_pin(worker, to, 1, 0), unpinned;

	if (error)
		return error;
	error = job_write_pinned(worker, to, content, 0);
	unpinned = ksm_ring_unpin(&ring);
	return error ? error : unpinned;
}

static long job_uffd_copy(struct ksm_worker *worker, long to, long content, long unused)
{
	struct uffdio_range range = { .start = to, .len = psize() };
	struct uffdio_copy copy = { .dst = to, .src = content, .len = psize() };
	struct uffdio_api api = { .api = UFFD_API };
	int uffd = syscall(__NR_userfaultfd, O_CLOEXEC);
	long error = 0;

	if (uffd < 0)
		return -errno;
	if (ioctl(uffd, UFFDIO_API, &api) || uffd_register(uffd, (char *)to, psize(), true, false,
							   false) ||
	    madvise((char *)to, psize(), MADV_DONTNEED) || ioctl(uffd, UFFDIO_COPY, &copy) ||
	    ioctl(uffd, UFFDIO_UNREGISTER, &range))
		error = -errno;
	close(uffd);
	return error;
}

static long job_discard(struct ksm_worker *worker, long to, long content, long unused)
{
	if (madvise((char *)to, psize(), MADV_DONTNEED))
		return -errno;
	return settled_job_store(worker, to, content, 0);
}

/* What was written is in the swap slot, and the page that comes back is clean. */
static long job_store_and_swap(struct ksm_worker *worker, long to, long content, long unused)
{
	settled_job_store(worker, to, content, 0);
	return settled_page_out((char *)to) && settled_page_in((char *)to) ? 0 : -EBUSY;
}

static long job_swap_in_by_store(struct ksm_worker *worker, long to, long content, long unused)
{
	return settled_page_out((char *)to) ? settled_job_store(worker, to, content, 0) : -EBUSY;
}

static long job_swap_and_store(struct ksm_worker *worker, long to, long content, long unused)
{
	if (!settled_page_out((char *)to) || !settled_page_in((char *)to))
		return -EBUSY;
	return settled_job_store(worker, to, content, 0);
}

static long job_mremap(struct ksm_worker *worker, long to, long content, long unused)
{
	char *from = ksm_map_registered(1);

	if (!from)
		return -ENOMEM;
	settled_job_store(worker, (long)from, content, 0);
	return mremap(from, psize(), psize(), MREMAP_MAYMOVE | MREMAP_FIXED, (char *)to) ==
	       (char *)to ? 0 : -errno;
}

/* The page takes part only from the moment that it is there. */
static long job_mremap_and_register(struct ksm_worker *worker, long to, long content, long unused)
{
	char *from = ksm_map_pages(1);

	if (!from)
		return -ENOMEM;
	settled_job_store(worker, (long)from, content, 0);
	if (mremap(from, psize(), psize(), MREMAP_MAYMOVE | MREMAP_FIXED, (char *)to) != (char *)to)
		return -errno;
	return ksm_mergeable((char *)to, 1);
}

static bool end_child(pid_t pid)
{
	return !kill(pid, SIGKILL) && waitpid(pid, NULL, 0) == pid;
}

/* 0 in a child that waits to be killed, which nobody gets to see. */
static pid_t fork_idle(void)
{
	pid_t pid = fork();

	while (!pid)
		pause();
	return pid;
}

/* The page is the child's, too: the store makes a copy. */
static long job_store_beside_child(struct ksm_worker *worker, long to, long content, long unused)
{
	pid_t pid = fork_idle();

	if (pid < 0)
		return -errno;
	settled_job_store(worker, to, content, 0);
	return end_child(pid) ? 0 : -ECHILD;
}

/* The page was the child's, too: it is write-protected, and not copied. */
static long job_store_after_child(struct ksm_worker *worker, long to, long content, long unused)
{
	pid_t pid = fork_idle();

	if (pid < 0)
		return -errno;
	if (!end_child(pid))
		return -ECHILD;
	return settled_job_store(worker, to, content, 0);
}

static long job_store_after_mprotect(struct ksm_worker *worker, long to, long content, long unused)
{
	if (mprotect((char *)to, psize(), PROT_NONE) ||
	    mprotect((char *)to, psize(), PROT_READ | PROT_WRITE))
		return -errno;
	return settled_job_store(worker, to, content, 0);
}

static bool moves_to(char *at, int node)
{
	void *pages = at;
	int status;

	return !syscall(SYS_move_pages, 0, 1, &pages, &node, &status, MPOL_MF_MOVE_ALL) &&
	       status == node;
}

/* To the first two nodes' other one. ksmd may hold the page for a moment, or merge it. */
static long move_page(char *at)
{
	int node[2], to;

	if (!ksm_find_two_nodes(node))
		return -ENODEV;
	to = ksm_node_of(at) == node[0] ? node[1] : node[0];
	return ksm_wait_until(moves_to(at, to)) ? 0 : -EBUSY;
}

static long job_move_and_store(struct ksm_worker *worker, long to, long content, long unused)
{
	long error = move_page((char *)to);

	return error ? error : settled_job_store(worker, to, content, 0);
}

/* There and back: it may well be the page frame that it was. */
static long job_store_and_move(struct ksm_worker *worker, long to, long content, long unused)
{
	long error;

	settled_job_store(worker, to, content, 0);
	error = move_page((char *)to);
	return error ? error : move_page((char *)to);
}

/* ---- what the ways need ---- */

static const char *no_nodes(void)
{
	int node[2];

	return ksm_find_two_nodes(node) ? NULL : "needs two NUMA nodes with memory";
}

static const char *no_huge_pages(void)
{
	return read_pmd_pagesize() ? NULL : "this kernel has no transparent huge pages";
}

/* ---- a settled page is changed ---- */

FIXTURE(changed)
{
	struct ksm_test ksm;
	struct settled settled;
};

FIXTURE_VARIANT(changed)
{
	struct settled_way way;
	unsigned int passes;		/* within which changed pages are merged */
	const char *(*missing)(void);
	bool huge;
};

/* By a job of the owner. */
#define JOB(name, how, ...)						\
	FIXTURE_VARIANT_ADD(changed, name) {				\
		.way.job = how,						\
		.passes = DIRTY_PASSES,					\
		__VA_ARGS__						\
	}

JOB(by_store, settled_job_store);
JOB(by_thread, job_store_by_thread);
JOB(by_read_of_pipe, job_read_pipe);
JOB(by_read_of_file, job_read_file);
JOB(by_read_of_memory, ksm_job_read);
JOB(by_uffd_copy, job_uffd_copy);
JOB(by_store_after_discard, job_discard);
JOB(by_store_then_swap, job_store_and_swap, .missing = settled_no_swap);
JOB(by_store_into_swapped, job_swap_in_by_store, .missing = settled_no_swap);
JOB(by_swap_then_store, job_swap_and_store, .missing = settled_no_swap);
JOB(by_mremap, job_mremap);
JOB(by_mremap_then_madvise, job_mremap_and_register);
JOB(by_store_beside_child, job_store_beside_child);
JOB(by_store_after_child, job_store_after_child);
JOB(by_store_after_mprotect, job_store_after_mprotect);
JOB(by_move_then_store, job_move_and_store, .missing = no_nodes);
JOB(by_store_then_move, job_store_and_move, .missing = no_nodes);
JOB(by_store_into_huge_page, settled_job_store, .missing = no_huge_pages, .huge = true);

FIXTURE_VARIANT_ADD(changed, by_fixed_buffer)
{
	.way.job = job_fixed_buffer,
	.passes = UNSEEN_PASSES,
};

FIXTURE_VARIANT_ADD(changed, by_process_vm)
{
	.way.write = ksm_write_by_process_vm,
	.passes = UNSEEN_PASSES,
};

FIXTURE_VARIANT_ADD(changed, by_proc_mem)
{
	.way.write = ksm_write_by_proc_mem,
	.passes = UNSEEN_PASSES,
};

FIXTURE_SETUP(changed)
{
	const char *missing = ksm_missing();
	int error;

	if (!missing && variant->missing)
		missing = variant->missing();
	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	ASSERT_EQ(0, ksm_set("smart_scan", "1"));
	error = settled_create(&self->settled, &self->ksm, variant->huge);
	if (variant->huge && error == -ENOMEM && ksm_end(&self->ksm))
		SKIP(return, "no huge page to be had: memory may be fragmented");
	ASSERT_EQ(0, error);
}

FIXTURE_TEARDOWN_PARENT(changed)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

TEST_F(changed, settled_page_merges_with_its_settled_twin)
{
	struct settled *settled = &self->settled;
	const size_t all = settled_nr_changed(settled);
	long error;

	ASSERT_TRUE(settled_rest(settled));
	error = settled_change(settled, &variant->way, false);
	if (error == -ENOSYS)
		SKIP(return, "this kernel has no such call");
	ASSERT_EQ(0, error);
	EXPECT_EQ(-1, settled_wrong(settled, true));
	for (unsigned int i = 0; i < variant->passes && settled_with_twin(settled) < all; i++)
		ASSERT_TRUE(ksm_one_pass());
	EXPECT_EQ(all, settled_with_twin(settled));
	EXPECT_EQ(-1, settled_wrong(settled, true));
	/* And that is all that ever merges. */
	ASSERT_TRUE(ksm_pass_by(SETTLED_PASSES));
	EXPECT_EQ(all, settled_with_twin(settled));
	EXPECT_EQ(all, settled_merged(settled));
	EXPECT_EQ(all, ksm_get("pages_shared"));
	EXPECT_EQ(all, ksm_get("pages_sharing"));
	EXPECT_EQ(-1, settled_wrong(settled, true));
}

/* Now ksmd may be anywhere in a pass; passes that are under way do not count. */
TEST_F(changed, page_merges_and_parts_while_ksmd_runs)
{
	struct settled *settled = &self->settled;
	const struct settled_way store = { .job = settled_job_store };
	const size_t all = settled_nr_changed(settled);

	ASSERT_EQ(0, ksm_set_number("sleep_millisecs", 0));
	ASSERT_EQ(0, ksm_set("run", "1"));
	ASSERT_TRUE(ksm_wait_passes(SETTLED_PASSES));
	for (unsigned int round = 0; round < ROUNDS; round++) {
		bool back = round % 2;
		long error = settled_change(settled, back ? &store : &variant->way, back);

		if (error == -ENOSYS)
			SKIP(return, "this kernel has no such call");
		ASSERT_EQ(0, error);
		EXPECT_EQ(-1, settled_wrong(settled, !back));
		/* One more, for a page that something else holds at that moment. */
		ASSERT_TRUE(ksm_wait_passes(back ? SETTLED_PASSES : variant->passes + 1));
		EXPECT_EQ(back ? 0 : all, settled_with_twin(settled));
		EXPECT_EQ(back ? 0 : all, settled_merged(settled));
		EXPECT_EQ(-1, settled_wrong(settled, !back));
	}
}

/* ---- a copy of a merged page ---- */

#define MOVED	16

FIXTURE(moved)
{
	struct ksm_test ksm;
	char *settled, *from, *twin;	/* MOVED pages each */
};

FIXTURE_SETUP(moved)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	ASSERT_EQ(0, ksm_set("smart_scan", "1"));
	self->settled = ksm_map_registered(MOVED);
	self->from = ksm_map_registered(MOVED);
	self->twin = ksm_map_registered(MOVED);
	ASSERT_NE(NULL, self->settled);
	ASSERT_NE(NULL, self->from);
	ASSERT_NE(NULL, self->twin);
	ksm_fill(self->settled, MOVED, SEED, 1);
	ksm_fill(self->from, MOVED, OTHER, 1);
	ksm_fill(self->twin, MOVED, OTHER, 1);
}

FIXTURE_TEARDOWN_PARENT(moved)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

/*
 * mremap() unmaps the settled page first. Then it unmerges the one that it moves,
 * and the copy, with a clean entry, is likely to be given the frame just freed.
 */
TEST_F(moved, copy_of_merged_page_is_seen_where_a_settled_one_was)
{
	ASSERT_TRUE(ksm_pass_by(SETTLED_PASSES));
	ASSERT_EQ(MOVED, ksm_get("pages_shared"));
	ASSERT_EQ(MOVED, ksm_get("pages_unshared"));
	for (size_t i = 0; i < MOVED; i++)
		ASSERT_EQ(page(self->settled, i),
			  mremap(page(self->from, i), psize(), psize(),
				 MREMAP_MAYMOVE | MREMAP_FIXED, page(self->settled, i)));
	EXPECT_EQ(0, ksm_count_merged(getpid(), self->settled, MOVED));
	ASSERT_TRUE(ksm_pass_by(DIRTY_PASSES));
	EXPECT_EQ(MOVED, ksm_count_merged(getpid(), self->settled, MOVED));
	EXPECT_EQ(MOVED, ksm_get("pages_shared"));
	EXPECT_EQ(MOVED, ksm_get("pages_sharing"));
	EXPECT_EQ(-1, ksm_first_wrong(self->settled, MOVED, OTHER, 1));
	EXPECT_EQ(-1, ksm_first_wrong(self->twin, MOVED, OTHER, 1));
}

/* ---- a pin that lasts ---- */

FIXTURE(pinned)
{
	struct ksm_test ksm;
	struct settled settled;
};

FIXTURE_SETUP(pinned)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	ASSERT_EQ(0, ksm_set("smart_scan", "1"));
	ASSERT_EQ(0, settled_create(&self->settled, &self->ksm, false));
	ASSERT_TRUE(settled_rest(&self->settled));
}

FIXTURE_TEARDOWN_PARENT(pinned)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

/* Settled pages are passed over without a look whether they are pinned. */
TEST_F(pinned, page_that_is_written_after_a_pass_merges)
{
	struct settled *settled = &self->settled;
	struct ksm_worker *owner = settled->owner;
	const struct settled_way store = { .job = settled_job_store };
	char *to = page(owner->map, 1);
	long error = ksm_ask(owner, job_pin, (long)to, 1, 0);

	if (error == -ENOSYS)
		SKIP(return, "this kernel has no io_uring, or no io_uring of 2019 or later");
	ASSERT_EQ(0, error);
	ASSERT_TRUE(ksm_pass_by(SETTLED_PASSES));
	ASSERT_EQ(0, ksm_ask(owner, job_write_pinned, (long)to, (long)page(settled->content, 1),
			     0));
	ASSERT_EQ(0, ksm_ask(owner, job_unpin, 0, 0, 0));
	ASSERT_TRUE(ksm_pass_by(UNSEEN_PASSES));
	EXPECT_EQ(1, settled_with_twin(settled));
	EXPECT_EQ(1, settled_merged(settled));
	EXPECT_EQ(1, ksm_get("pages_sharing"));
	/* The rest is as it was: with the other pages that are changed now, all is right. */
	ASSERT_EQ(0, settled_change(settled, &store, false));
	EXPECT_EQ(-1, settled_wrong(settled, true));
}

TEST_HARNESS_MAIN
