// SPDX-License-Identifier: GPL-2.0-only
/* Operations that put other pages into the area, or pages elsewhere; see ksm_torture.h. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "ksm_torture.h"
#include "ksm_util.h"
#include "vm_util.h"

#define TRIES	1000

/* ---- mmap ---- */

static char *map_pages(char *at, size_t count, int flags, int fd, off_t offset)
{
	return mmap(at, count * psize(), PROT_READ | PROT_WRITE, MAP_PRIVATE | flags, fd, offset);
}

static bool is_hole(char *at)
{
	unsigned char resident;

	return mincore(at, psize(), &resident) && errno == ENOMEM;
}

static void now_empty(struct torture_self *self, size_t page)
{
	self->page[page].under = 0;
	self->page[page].flags &= ~(PAGE_NO_READ | PAGE_NO_WRITE | PAGE_FILE);
	torture_discard(self, page);
}

/* Nothing else of this process maps anything meanwhile. */
static void fill_hole(struct torture_self *self, size_t page)
{
	if (map_pages(torture_at(self, page), 1, MAP_FIXED_NOREPLACE | MAP_ANONYMOUS, -1, 0) ==
	    MAP_FAILED)
		self->hopeless = true;
	now_empty(self, page);
}

int torture_job_map(struct torture_self *self, size_t first, size_t count, int over)
{
	char *at = torture_at(self, first);
	int how = over ? MAP_FIXED : MAP_FIXED_NOREPLACE;

	if (!over && munmap(at, count * psize()))
		return -errno;
	if (map_pages(at, count, how | MAP_ANONYMOUS, -1, 0) == MAP_FAILED) {
		self->hopeless = true;
		return -errno;
	}
	for (size_t i = first; i < first + count; i++)
		now_empty(self, i);
	return 0;
}

/*
 * Where huge pages could be, all anew: one is there from the start, or the range is ready
 * to be made one.
 */
int torture_job_map_huge(struct torture_self *self, size_t first, size_t count, int arg)
{
	size_t huge = read_pmd_pagesize() / psize();
	bool small = torture_below(&self->random, 2);
	int error;

	if (!huge)
		return -EOPNOTSUPP;
	first -= first % huge;
	if (first + huge > self->pages)
		return -EDOM;
	error = torture_job_map(self, first, huge, 1);
	if (error)
		return error;
	if (madvise(torture_at(self, first), huge * psize(),
		    small ? MADV_NOHUGEPAGE : MADV_HUGEPAGE))
		return -errno;
	torture_store(self, first, small ? huge : 1 + torture_below(&self->random, huge));
	return madvise(torture_at(self, first), huge * psize(), MADV_HUGEPAGE) ? -errno : 0;
}

/* Its pages are the file's until they are written to; only then KSM looks at them. */
int torture_job_map_file(struct torture_self *self, size_t first, size_t count, int arg)
{
	unsigned int from = torture_below(&self->random, TORTURE_CONTENTS - count);

	if (map_pages(torture_at(self, first), count, MAP_FIXED, torture_file,
		      torture_content_offset(from)) == MAP_FAILED) {
		self->hopeless = true;
		return -errno;
	}
	for (size_t i = 0; i < count; i++) {
		now_empty(self, first + i);
		self->page[first + i].under = from + i;
		self->page[first + i].flags |= PAGE_FILE;
		torture_discard(self, first + i);
	}
	return 0;
}

/* ---- mremap ---- */

static bool move(char *from, char *to, size_t count, int flags)
{
	return mremap(from, count * psize(), count * psize(),
		      MREMAP_MAYMOVE | MREMAP_FIXED | flags, to) == to;
}

static void forget_pins(struct torture_self *self, size_t first, size_t count)
{
	for (size_t i = first; i < first + count; i++)
		self->page[i].flags &= ~PAGE_PINNED;
}

/* In a group without memory it may be refused for some time. */
static void bring_back(struct torture_self *self, size_t page)
{
	char *at = torture_at(self, page), *from = self->spare + page * psize();

	for (unsigned int i = 0; i < TRIES; i++) {
		if (move(from, at, 1, 0))
			return;
		ksm_pause();
	}
	self->hopeless = true;
}

int torture_job_move_away(struct torture_self *self, size_t first, size_t count, int arg)
{
	char *at = torture_at(self, first), *spare = self->spare + first * psize();
	bool moved = move(at, spare, count, 0);
	int error = moved ? 0 : -errno;

	forget_pins(self, first, count);
	/* Where nothing was moved, what is there is only this. */
	if (!moved || !move(spare, at, count, 0))
		for (size_t i = first; i < first + count; i++)
			if (is_hole(torture_at(self, i)))
				bring_back(self, i);
	if (mmap(spare, count * psize(), PROT_NONE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) != spare)
		self->hopeless = true;
	return error;
}

/* A page is now what another one was. */
static void moved_to(struct torture_self *self, size_t from, size_t to)
{
	self->page[to] = self->page[from];
	self->page[to].flags &= ~PAGE_PINNED;
}

/* The other end of the area, unless the two would overlap. */
static bool find_other(struct torture_self *self, size_t *first, size_t count, size_t *other)
{
	size_t room = self->pages - count;

	if (self->pages < 2 * count)
		return false;
	*other = torture_below(&self->random, room + 1);
	if (*other + count <= *first || *first + count <= *other)
		return true;
	*other = *first >= count ? *first - count : *first + count;
	return *other + count <= self->pages;
}

/*
 * On top of others, which are gone then. The call may stop half way: what is there no
 * more was moved.
 */
int torture_job_move_over(struct torture_self *self, size_t first, size_t count, int flags)
{
	size_t to;
	int error;

	if (!find_other(self, &first, count, &to))
		return -EDOM;
	error = move(torture_at(self, first), torture_at(self, to), count, flags) ? 0 : -errno;
	for (size_t i = 0; i < count; i++) {
		bool gone = is_hole(torture_at(self, first + i));

		if (gone || !error)
			moved_to(self, first + i, to + i);
		else if (is_hole(torture_at(self, to + i)))
			fill_hole(self, to + i);
		if (gone)
			fill_hole(self, first + i);
		else if (!error)
			torture_discard(self, first + i);
	}
	return error;
}

/* ---- userfaultfd ---- */

static bool try_features(int fd, uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };

	return !ioctl(fd, UFFDIO_API, &api);
}

/* 0 or -errno. Some processes have one that undoes its write-protection by itself. */
static int open_uffd(struct torture_self *self)
{
	uint64_t features = 0;

	if (self->uffd >= 0)
		return 0;
	self->uffd = syscall(__NR_userfaultfd, O_CLOEXEC);
	if (self->uffd < 0)
		return -errno;
	self->uffd_async = self->proc->name & 1;
#ifdef UFFD_FEATURE_RWP_ASYNC
	features = UFFD_FEATURE_RWP | UFFD_FEATURE_RWP_ASYNC;
#endif
	if (self->uffd_async && (try_features(self->uffd, UFFD_FEATURE_WP_ASYNC | features) ||
				 try_features(self->uffd, UFFD_FEATURE_WP_ASYNC)))
		return 0;
	self->uffd_async = false;
	if (try_features(self->uffd, 0))
		return 0;
	close(self->uffd);
	self->uffd = -1;
	return -EOPNOTSUPP;
}

static int register_uffd(struct torture_self *self, size_t first, size_t count, uint64_t mode)
{
	struct uffdio_register range = {
		.range = { (uintptr_t)torture_at(self, first), count * psize() },
		.mode = mode,
	};
	int error = open_uffd(self);

	if (error || !ioctl(self->uffd, UFFDIO_REGISTER, &range))
		return error;
	error = -errno;
	/* It may have come half way. */
	uffd_unregister(self->uffd, torture_at(self, first), count * psize());
	return error;
}

/* Wakes whoever waits in it. Where this fails, touching it could take for ever. */
static void unregister_uffd(struct torture_self *self, size_t first, size_t count)
{
	if (uffd_unregister(self->uffd, torture_at(self, first), count * psize()))
		self->hopeless = true;
}

/* Discarded, and whoever touches it waits; or -errno, and nothing is registered. */
static int empty_with_uffd(struct torture_self *self, size_t first, size_t count)
{
	int error = register_uffd(self, first, count, UFFDIO_REGISTER_MODE_MISSING);

	if (error)
		return error;
	error = torture_discard_range(self, first, count, MADV_DONTNEED_LOCKED);
	if (error)
		unregister_uffd(self, first, count);
	return error;
}

/* -errno if this failed, or for few pages. */
static int uffd_did(long done, bool failed)
{
	return !failed ? 0 : done > 0 ? -EAGAIN : errno == EINVAL ? -EBUSY : -errno;
}

int torture_job_uffd_copy(struct torture_self *self, size_t first, size_t count, int arg)
{
	unsigned int from = torture_below(&self->random, TORTURE_CONTENTS - count);
	struct uffdio_copy copy = {
		.dst = (uintptr_t)torture_at(self, first),
		.src = (uintptr_t)torture_content(from),
		.len = count * psize(),
	};
	int error = empty_with_uffd(self, first, count);

	if (error)
		return error;
	error = ioctl(self->uffd, UFFDIO_COPY, &copy);
	error = uffd_did(copy.copy, error);
	unregister_uffd(self, first, count);
	for (size_t i = 0; copy.copy > 0 && i < copy.copy / psize(); i++)
		torture_put(self, first + i, from + i);
	return error;
}

int torture_job_uffd_zero(struct torture_self *self, size_t first, size_t count, int arg)
{
	struct uffdio_zeropage zero = {
		.range = { (uintptr_t)torture_at(self, first), count * psize() },
	};
	int error = empty_with_uffd(self, first, count);

	if (error)
		return error;
	error = ioctl(self->uffd, UFFDIO_ZEROPAGE, &zero);
	error = uffd_did(zero.zeropage, error);
	unregister_uffd(self, first, count);
	for (size_t i = 0; zero.zeropage > 0 && i < zero.zeropage / psize(); i++)
		torture_put(self, first + i, 0);
	return error;
}

static int set_protection(struct torture_self *self, size_t first, size_t count, int rwp, bool on)
{
	struct uffdio_writeprotect range = {
		.range = { (uintptr_t)torture_at(self, first), count * psize() },
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

#ifdef UFFDIO_RWPROTECT
	if (rwp) {
		struct uffdio_rwprotect both = { range.range, on ? UFFDIO_RWPROTECT_MODE_RWP : 0 };

		return ioctl(self->uffd, UFFDIO_RWPROTECT, &both) ? -errno : 0;
	}
#endif
	return ioctl(self->uffd, UFFDIO_WRITEPROTECT, &range) ? -errno : 0;
}

/*
 * The area is left in it if the kernel undoes it by itself. Else nobody would wake this
 * process, so it does nothing but read until it is undone.
 */
int torture_job_uffd_protect(struct torture_self *self, size_t first, size_t count, int rwp)
{
	uint64_t mode = UFFDIO_REGISTER_MODE_WP;
	int error = open_uffd(self);

	if (error)
		return error;
	if (rwp && !self->uffd_async)
		return -EDOM;
#ifdef UFFDIO_RWPROTECT
	mode = rwp ? UFFDIO_REGISTER_MODE_RWP : mode;
#else
	if (rwp)
		return -EOPNOTSUPP;
#endif
	error = register_uffd(self, first, count, mode);
	if (error)
		return error == -EINVAL ? -EOPNOTSUPP : error;
	error = set_protection(self, first, count, rwp, true);
	if (self->uffd_async)
		return error;
	torture_check(self, first, count);
	if (set_protection(self, first, count, rwp, false) && !error)
		self->hopeless = true;
	unregister_uffd(self, first, count);
	return error;
}

/* Pages change places in the page table; shared ones may not. */
int torture_job_uffd_move(struct torture_self *self, size_t first, size_t count, int arg)
{
#ifdef UFFDIO_MOVE
	struct uffdio_move request;
	size_t to;
	int error;

	if (!find_other(self, &first, count, &to))
		return -EDOM;
	error = empty_with_uffd(self, to, count);
	if (error)
		return error;
	request = (struct uffdio_move){
		.dst = (uintptr_t)torture_at(self, to),
		.src = (uintptr_t)torture_at(self, first),
		.len = count * psize(),
	};
	error = ioctl(self->uffd, UFFDIO_MOVE, &request);
	error = uffd_did(request.move, error);
	unregister_uffd(self, to, count);
	for (size_t i = 0; request.move > 0 && i < request.move / psize(); i++) {
		torture_put(self, to + i, self->page[first + i].content);
		self->page[to + i].flags |= self->page[first + i].flags & PAGE_MAYBE;
		torture_discard(self, first + i);
	}
	return error;
#else
	return -EOPNOTSUPP;
#endif
}
