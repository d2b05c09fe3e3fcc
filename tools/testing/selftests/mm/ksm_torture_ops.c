// SPDX-License-Identifier: GPL-2.0-only
/* What the processes do to a range of their pages; see ksm_torture.h. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <linux/mman.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "ksm_torture.h"
#include "ksm_util.h"
#include "vm_util.h"

/* ---- advice ---- */

static int job_advise(struct torture_self *self, size_t first, size_t count, int advice)
{
	return madvise(torture_at(self, first), count * psize(), advice) ? -errno : 0;
}

static int job_huge(struct torture_self *self, size_t first, size_t count, int advice)
{
	return read_pmd_pagesize() ? job_advise(self, first, count, advice) : -EOPNOTSUPP;
}

static int job_collapse(struct torture_self *self, size_t first, size_t count, int arg)
{
	size_t huge = read_pmd_pagesize() / psize();

	if (!huge)
		return -EOPNOTSUPP;
	first -= first % huge;
	if (first + huge > self->pages)
		return -EDOM;
	return job_advise(self, first, huge, MADV_COLLAPSE);
}

static void maybe(struct torture_self *self, size_t first, size_t count)
{
	for (size_t i = first; i < first + count; i++) {
		self->page[i].flags |= PAGE_MAYBE;
		self->page[i].flags &= ~PAGE_PINNED;
	}
}

/* Stops at memory that is locked, after it did what came before. */
int torture_discard_range(struct torture_self *self, size_t first, size_t count, int advice)
{
	if (madvise(torture_at(self, first), count * psize(), advice)) {
		int error = -errno;

		maybe(self, first, count);
		return error;
	}
	for (size_t i = first; i < first + count; i++)
		torture_discard(self, i);
	return 0;
}

static int job_free(struct torture_self *self, size_t first, size_t count, int arg)
{
	maybe(self, first, count);
	return job_advise(self, first, count, MADV_FREE);
}

/*
 * Not where a file is mapped: a mark that userfaultfd leaves there for a write-protected
 * page makes Linux 7.3 try to install the guard for ever.
 */
static int job_guard(struct torture_self *self, size_t first, size_t count, int arg)
{
	int error, removed;

	for (size_t i = first; i < first + count; i++)
		if (self->page[i].flags & PAGE_FILE)
			return -EDOM;
	error = torture_discard_range(self, first, count, MADV_GUARD_INSTALL);
	removed = job_advise(self, first, count, MADV_GUARD_REMOVE);
	if (removed && !error)
		self->hopeless = true;
	return error == -EINVAL && removed == -EINVAL ? -EOPNOTSUPP : error;
}

static int job_soft_offline(struct torture_self *self, size_t first, size_t count, int arg)
{
	int error;

	if (__atomic_fetch_add(&torture->soft_offline, 1, __ATOMIC_RELAXED) >= TORTURE_SOFT_OFFLINE)
		return -EDQUOT;
	error = job_advise(self, first, 1, MADV_SOFT_OFFLINE);
	return error == -EINVAL ? -EOPNOTSUPP : error;
}

/* For another thread at any time: such as changes no content. */
int torture_neutral_advice(uint64_t *random)
{
	static const int advice[] = {
		MADV_MERGEABLE, MADV_MERGEABLE, MADV_UNMERGEABLE, MADV_PAGEOUT, MADV_COLD,
		MADV_POPULATE_READ, MADV_POPULATE_WRITE, MADV_WILLNEED, MADV_COLLAPSE,
	};

	return advice[torture_below(random, ARRAY_SIZE(advice))];
}

/* ---- protection, NUMA, and what else is done to processes ---- */

static int job_protect(struct torture_self *self, size_t first, size_t count, int arg)
{
	static const struct {
		int prot;
		uint8_t flags;
	} way[] = {
		{ PROT_NONE, PAGE_NO_READ | PAGE_NO_WRITE },
		{ PROT_READ, PAGE_NO_WRITE },
		{ PROT_READ | PROT_WRITE, 0 },
		{ PROT_READ | PROT_WRITE | PROT_EXEC, 0 },
	};
	unsigned int to = torture_below(&self->random, ARRAY_SIZE(way));
	bool failed = mprotect(torture_at(self, first), count * psize(), way[to].prot);
	int error = failed ? -errno : 0;

	for (size_t i = first; i < first + count; i++) {
		self->page[i].flags &= ~(PAGE_NO_READ | PAGE_NO_WRITE);
		self->page[i].flags |= failed ? way[0].flags : way[to].flags;
	}
	return error;
}

static int job_lock(struct torture_self *self, size_t first, size_t count, int onfault)
{
	return mlock2(torture_at(self, first), count * psize(), onfault ? MLOCK_ONFAULT : 0) ?
	       -errno : 0;
}

static int job_unlock(struct torture_self *self, size_t first, size_t count, int arg)
{
	return munlock(torture_at(self, first), count * psize()) ? -errno : 0;
}

static int job_merge_any(struct torture_self *self, size_t first, size_t count, int on)
{
	return ksm_set_merge_any(on);
}

static int job_move_pages(struct torture_self *self, size_t first, size_t count, int arg)
{
	int node[TORTURE_VECTOR], status[TORTURE_VECTOR];
	void *page[TORTURE_VECTOR];
	int flags = torture_below(&self->random, 2) ? MPOL_MF_MOVE : MPOL_MF_MOVE_ALL;
	int to = torture_below(&self->random, 2);

	for (size_t i = 0; i < count; i++) {
		page[i] = torture_at(self, first + i);
		node[i] = to;
		status[i] = -ENOENT;
	}
	if (torture->nodes < 2)
		return -EOPNOTSUPP;
	if (syscall(SYS_move_pages, 0, count, page, node, status, flags) < 0)
		return -errno;
	for (size_t i = 0; i < count; i++)
		if (status[i] == to)
			return 0;
	return -EBUSY;
}

static int job_bind(struct torture_self *self, size_t first, size_t count, int arg)
{
	unsigned long mask = 1 + torture_below(&self->random, 2);

	if (torture->nodes < 2)
		return -EOPNOTSUPP;
	return syscall(SYS_mbind, torture_at(self, first), count * psize(), MPOL_BIND, &mask,
		       8 * sizeof(mask), MPOL_MF_MOVE) ? -errno : 0;
}

static int job_migrate(struct torture_self *self, size_t first, size_t count, int arg)
{
	unsigned long from = 1 + torture_below(&self->random, 2), to = 3 - from;

	if (torture->nodes < 2)
		return -EOPNOTSUPP;
	return syscall(SYS_migrate_pages, 0, 8 * sizeof(from), &from, &to) < 0 ? -errno : 0;
}

/* Marks of accesses, or of writes. */
static int job_clear_refs(struct torture_self *self, size_t first, size_t count, int arg)
{
	int error = ksm_write_text("/proc/self/clear_refs",
				    torture_below(&self->random, 2) ? "1" : "4");

	return error == -ENOENT || error == -EINVAL ? -EOPNOTSUPP : error;
}

/* Goes through all that is mapped, as monitors do. */
static int job_look(struct torture_self *self, size_t first, size_t count, int arg)
{
	static const char * const files[] = { "smaps", "smaps_rollup", "numa_maps", "ksm_stat" };
	char path[64], text[4096];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/%s",
		 files[torture_below(&self->random, ARRAY_SIZE(files))]);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? -EOPNOTSUPP : -errno;
	while (read(fd, text, sizeof(text)) > 0)
		;
	close(fd);
	return 0;
}

static int job_join_group(struct torture_self *self, size_t first, size_t count, int arg)
{
	if (!torture->has_group)
		return -EOPNOTSUPP;
	self->proc->may_die = true;
	return ksm_write_text(TORTURE_GROUP "/cgroup.procs", "0");
}

static int job_leave_group(struct torture_self *self, size_t first, size_t count, int arg)
{
	if (!torture->has_group)
		return -EOPNOTSUPP;
	return ksm_write_text("/sys/fs/cgroup/cgroup.procs", "0");
}

static int job_reclaim(struct torture_self *self, size_t first, size_t count, int arg)
{
	return torture->has_group ? ksm_write_text(TORTURE_GROUP "/memory.reclaim", "1M") :
				    -EOPNOTSUPP;
}

static int job_fork(struct torture_self *self, size_t first, size_t count, int arg)
{
	return torture_fork(self) ? 0 : -EAGAIN;
}

/* ---- the table ---- */

const struct torture_op torture_ops[] = {
	{ "store",		60, 0,	torture_job_store },
	{ "store_same",		60, 0,	torture_job_store_same },
	{ "store_word",		60, 0,	torture_job_store_word },
	{ "process_vm_writev",	20, TORTURE_VECTOR,	torture_job_process_vm },
	{ "written_by_child",	6, TORTURE_VECTOR,	torture_job_written_by_child },
	{ "proc_mem_write",	20, TORTURE_VECTOR,	torture_job_proc_mem },
	{ "read_file",		20, TORTURE_VECTOR,	torture_job_read_file },
	{ "read_pipe",		15, TORTURE_PIPE,	torture_job_read_pipe },
	{ "pin",		8, TORTURE_PIPE,	torture_job_pin },
	{ "unpin",		4, 1,	torture_job_unpin },
	{ "write_pinned",	20, 1,	torture_job_write_pinned },
	{ "vmsplice",		12, TORTURE_PIPE,	torture_job_vmsplice },
	{ "mergeable",		50, 0,	job_advise, MADV_MERGEABLE },
	{ "unmergeable",	12, 0,	job_advise, MADV_UNMERGEABLE },
	{ "dontneed",		10, 0,	torture_discard_range, MADV_DONTNEED },
	{ "dontneed_locked",	4, 0,	torture_discard_range, MADV_DONTNEED_LOCKED },
	{ "free",		10, 0,	job_free },
	{ "pageout",		20, 0,	job_advise, MADV_PAGEOUT },
	{ "cold",		8, 0,	job_advise, MADV_COLD },
	{ "willneed",		8, 0,	job_advise, MADV_WILLNEED },
	{ "populate_read",	6, 0,	job_advise, MADV_POPULATE_READ },
	{ "populate_write",	8, 0,	job_advise, MADV_POPULATE_WRITE },
	{ "hugepage",		6, 0,	job_huge, MADV_HUGEPAGE },
	{ "nohugepage",		4, 0,	job_huge, MADV_NOHUGEPAGE },
	{ "collapse",		10, 1,	job_collapse },
	{ "guard",		5, 0,	job_guard },
	{ "soft_offline",	2, 1,	job_soft_offline },
	{ "mprotect",		20, 0,	job_protect },
	{ "mlock",		6, 0,	job_lock, 0 },
	{ "mlock_onfault",	3, 0,	job_lock, 1 },
	{ "munlock",		10, 0,	job_unlock },
	{ "munmap_mmap",	8, 0,	torture_job_map, 0 },
	{ "mmap_over",		8, 0,	torture_job_map, 1 },
	{ "mmap_huge",		5, 1,	torture_job_map_huge },
	{ "mmap_file",		6, TORTURE_VECTOR,	torture_job_map_file },
	{ "mremap_away_and_back", 10, 0,	torture_job_move_away },
	{ "mremap_over",	10, 0,	torture_job_move_over, 0 },
	{ "mremap_dontunmap",	5, 1,	torture_job_move_over, MREMAP_DONTUNMAP },
	{ "uffd_copy",		8, TORTURE_VECTOR,	torture_job_uffd_copy },
	{ "uffd_zeropage",	5, TORTURE_VECTOR,	torture_job_uffd_zero },
	{ "uffd_wp",		10, 0,	torture_job_uffd_protect, 0 },
	{ "uffd_rwp",		5, 0,	torture_job_uffd_protect, 1 },
	{ "uffd_move",		8, TORTURE_VECTOR,	torture_job_uffd_move },
	{ "merge_any_on",	6, 1,	job_merge_any, 1 },
	{ "merge_any_off",	4, 1,	job_merge_any, 0 },
	{ "move_pages",		10, TORTURE_VECTOR,	job_move_pages },
	{ "mbind",		8, 0,	job_bind },
	{ "migrate_pages",	3, 1,	job_migrate },
	{ "clear_refs",		6, 1,	job_clear_refs },
	{ "look",		5, 1,	job_look },
	{ "join_group",		2, 1,	job_join_group },
	{ "leave_group",	8, 1,	job_leave_group },
	{ "reclaim_group",	3, 1,	job_reclaim },
	{ "fork",		14, 1,	job_fork },
};

const unsigned int torture_nr_ops = ARRAY_SIZE(torture_ops);
