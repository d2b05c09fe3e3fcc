// SPDX-License-Identifier: GPL-2.0-only
/*
 * Which memory takes part: madvise(MADV_MERGEABLE) on all kinds of memory.
 * ksmd is off in all of these tests; registering does not need it.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include "ksm_util.h"
#include "vm_util.h"

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif

#define PAGES 4

static bool is_mergeable(const char *addr)
{
	return ksm_vma_is_mergeable(getpid(), addr);
}

/* How many VMAs lie in or touch the range? */
static unsigned int count_vmas(const char *map, size_t pages)
{
	unsigned long from, to, start = (unsigned long)map;
	unsigned int count = 0;
	char line[512];
	FILE *maps;

	maps = fopen("/proc/self/maps", "r");
	while (maps && fgets(line, sizeof(line), maps)) {
		if (sscanf(line, "%lx-%lx ", &from, &to) == 2 &&
		    from < start + pages * psize() && to > start)
			count++;
	}
	if (maps)
		fclose(maps);
	return count;
}

/* One file for each way of keeping memory that a VMA may map. */
static int open_memfd(unsigned int flags, size_t size)
{
	int fd = memfd_create("ksm_register", flags);

	if (fd >= 0 && ftruncate(fd, size)) {
		close(fd);
		return -1;
	}
	return fd;
}

static char *map_file(int fd, size_t size, int prot, int flags)
{
	char *map;

	if (fd < 0)
		return NULL;
	map = mmap(NULL, size, prot, flags, fd, 0);
	close(fd);
	return map == MAP_FAILED ? NULL : map;
}

static char *map_anon(size_t size, int prot, int flags)
{
	char *map = mmap(NULL, size, prot, MAP_ANONYMOUS | flags, -1, 0);

	return map == MAP_FAILED ? NULL : map;
}

static char *map_anon_private(size_t *size)
{
	return map_anon(*size, PROT_READ | PROT_WRITE, MAP_PRIVATE);
}

static char *map_anon_read_only(size_t *size)
{
	return map_anon(*size, PROT_READ, MAP_PRIVATE);
}

static char *map_anon_no_access(size_t *size)
{
	return map_anon(*size, PROT_NONE, MAP_PRIVATE);
}

static char *map_anon_locked(size_t *size)
{
	return map_anon(*size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_LOCKED);
}

static char *map_anon_growing(size_t *size)
{
	return map_anon(*size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_GROWSDOWN);
}

static char *map_anon_shared(size_t *size)
{
	return map_anon(*size, PROT_READ | PROT_WRITE, MAP_SHARED);
}

static char *map_droppable(size_t *size)
{
	return map_anon(*size, PROT_READ | PROT_WRITE, MAP_DROPPABLE);
}

static char *map_memfd_private(size_t *size)
{
	return map_file(open_memfd(0, *size), *size, PROT_READ | PROT_WRITE, MAP_PRIVATE);
}

static char *map_memfd_shared(size_t *size)
{
	return map_file(open_memfd(0, *size), *size, PROT_READ | PROT_WRITE, MAP_SHARED);
}

/* Shared, but from a file that is only open for reading. */
static char *map_memfd_may_share(size_t *size)
{
	int fd = open_memfd(0, *size);
	char path[64];
	int reader;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	reader = open(path, O_RDONLY);
	close(fd);
	return map_file(reader, *size, PROT_READ, MAP_SHARED);
}

static char *map_own_program_private(size_t *size)
{
	return map_file(open("/proc/self/exe", O_RDONLY), *size,
			PROT_READ | PROT_WRITE, MAP_PRIVATE);
}

static char *map_own_program_shared(size_t *size)
{
	return map_file(open("/proc/self/exe", O_RDONLY), *size, PROT_READ, MAP_SHARED);
}

static void set_huge_pages(long count)
{
	FILE *file = fopen("/proc/sys/vm/nr_hugepages", "w");

	if (file) {
		fprintf(file, "%ld", count);
		fclose(file);
	}
}

static char *map_hugetlb(size_t *size, int flags)
{
	set_huge_pages(ksm_meminfo("HugePages_Total") + 1);
	*size = ksm_meminfo("Hugepagesize") * 1024;
	return map_anon(*size, PROT_READ | PROT_WRITE, MAP_HUGETLB | flags);
}

static char *map_hugetlb_private(size_t *size)
{
	return map_hugetlb(size, MAP_PRIVATE);
}

static char *map_hugetlb_shared(size_t *size)
{
	return map_hugetlb(size, MAP_SHARED);
}

/* The kernel's own mapping in each process; not ours to unmap. */
static char *map_vdso(size_t *size)
{
	*size = psize();
	return (char *)getauxval(AT_SYSINFO_EHDR);
}

static char *map_physical_memory(size_t *size)
{
	return map_file(open("/dev/mem", O_RDONLY), *size, PROT_READ, MAP_PRIVATE);
}

FIXTURE(vma_kind)
{
	struct ksm_test ksm;
	long huge_pages;
};

FIXTURE_VARIANT(vma_kind)
{
	char *(*map)(size_t *size);
	bool takes_part;
	const char *needs;	/* what not every kernel or machine has */
};

#define VMA_KIND(kind, yes, what) \
	FIXTURE_VARIANT_ADD(vma_kind, kind) { \
		.map = map_##kind, .takes_part = yes, .needs = what }

VMA_KIND(anon_private, true, NULL);
VMA_KIND(anon_read_only, true, NULL);
VMA_KIND(anon_no_access, true, NULL);
VMA_KIND(anon_locked, true, NULL);
VMA_KIND(anon_growing, true, NULL);
VMA_KIND(memfd_private, true, NULL);
VMA_KIND(own_program_private, true, NULL);
VMA_KIND(anon_shared, false, NULL);
VMA_KIND(memfd_shared, false, NULL);
VMA_KIND(memfd_may_share, false, NULL);
VMA_KIND(own_program_shared, false, NULL);
VMA_KIND(droppable, false, "MAP_DROPPABLE");
VMA_KIND(hugetlb_private, false, "huge pages");
VMA_KIND(hugetlb_shared, false, "huge pages");
VMA_KIND(vdso, false, "a vDSO");
VMA_KIND(physical_memory, false, "/dev/mem");

FIXTURE_SETUP(vma_kind)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	self->huge_pages = ksm_meminfo("HugePages_Total");
	ASSERT_TRUE(ksm_begin(&self->ksm));
}

FIXTURE_TEARDOWN_PARENT(vma_kind)
{
	set_huge_pages(self->huge_pages);
	EXPECT_TRUE(ksm_end(&self->ksm));
}

TEST_F(vma_kind, madvise_succeeds_and_flags_only_compatible_memory)
{
	size_t size = PAGES * psize();
	char *map = variant->map(&size);

	if (!map && variant->needs)
		SKIP(return, "no %s here", variant->needs);
	ASSERT_NE(NULL, map);
	EXPECT_FALSE(is_mergeable(map));
	EXPECT_EQ(0, ksm_mergeable(map, size / psize()));
	EXPECT_EQ(variant->takes_part, is_mergeable(map));
	EXPECT_EQ(0, ksm_unmergeable(map, size / psize()));
	EXPECT_FALSE(is_mergeable(map));
}

TEST_F(vma_kind, prctl_flags_present_memory_only_if_compatible)
{
	size_t size = PAGES * psize();
	char *map = variant->map(&size);

	if (!map && variant->needs)
		SKIP(return, "no %s here", variant->needs);
	ASSERT_NE(NULL, map);
	ASSERT_EQ(0, ksm_set_merge_any(1));
	EXPECT_EQ(variant->takes_part, is_mergeable(map));
	ASSERT_EQ(0, ksm_set_merge_any(0));
	EXPECT_FALSE(is_mergeable(map));
}

TEST_F(vma_kind, prctl_flags_future_memory_only_if_compatible)
{
	size_t size = PAGES * psize();
	char *map;

	ASSERT_EQ(0, ksm_set_merge_any(1));
	map = variant->map(&size);
	if (!map && variant->needs)
		SKIP(return, "no %s here", variant->needs);
	ASSERT_NE(NULL, map);
	EXPECT_EQ(variant->takes_part, is_mergeable(map));
	ASSERT_EQ(0, ksm_set_merge_any(0));
	EXPECT_FALSE(is_mergeable(map));
}

FIXTURE(registration)
{
	struct ksm_test ksm;
};

FIXTURE_SETUP(registration)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
}

FIXTURE_TEARDOWN_PARENT(registration)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

TEST_F(registration, gap_gives_enomem_but_mapped_parts_are_handled)
{
	char *map = ksm_map_fenced(3);

	ASSERT_NE(NULL, map);
	ASSERT_EQ(0, munmap(map + psize(), psize()));
	EXPECT_EQ(-ENOMEM, ksm_mergeable(map, 3));
	EXPECT_TRUE(is_mergeable(map));
	EXPECT_TRUE(is_mergeable(map + 2 * psize()));
	EXPECT_EQ(-ENOMEM, ksm_unmergeable(map, 3));
	EXPECT_FALSE(is_mergeable(map));
	EXPECT_FALSE(is_mergeable(map + 2 * psize()));
}

TEST_F(registration, range_over_compatible_and_other_memory_succeeds)
{
	char *map = ksm_map_fenced(3);
	char *shared;

	ASSERT_NE(NULL, map);
	shared = mmap(map + psize(), psize(), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	ASSERT_EQ(map + psize(), shared);
	EXPECT_EQ(0, ksm_mergeable(map, 3));
	EXPECT_TRUE(is_mergeable(map));
	EXPECT_FALSE(is_mergeable(shared));
	EXPECT_TRUE(is_mergeable(map + 2 * psize()));
}

TEST_F(registration, unmergeable_on_a_never_registered_range_succeeds)
{
	char *map = ksm_map_fenced(PAGES);

	ASSERT_NE(NULL, map);
	EXPECT_EQ(0, ksm_unmergeable(map, PAGES));
	EXPECT_TRUE(ksm_proc_says(getpid(), "ksm_mergeable: no"));
}

TEST_F(registration, bad_ranges_are_refused_and_empty_ones_are_not)
{
	char *map = ksm_map_fenced(PAGES);

	ASSERT_NE(NULL, map);
	EXPECT_EQ(-1, madvise(map + 1, psize(), MADV_MERGEABLE));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, madvise(map + 1, psize(), MADV_UNMERGEABLE));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, madvise(map, -2L * psize(), MADV_MERGEABLE));
	EXPECT_TRUE(errno == EINVAL || errno == ENOMEM);
	EXPECT_EQ(0, madvise(map, 0, MADV_MERGEABLE));
	EXPECT_FALSE(is_mergeable(map + psize()));
}

TEST_F(registration, length_is_rounded_up_to_a_page)
{
	char *map = ksm_map_fenced(2);

	ASSERT_NE(NULL, map);
	EXPECT_EQ(0, madvise(map, 1, MADV_MERGEABLE));
	EXPECT_TRUE(is_mergeable(map));
	EXPECT_FALSE(is_mergeable(map + psize()));
}

TEST_F(registration, twice_is_as_good_as_once)
{
	char *map = ksm_map_fenced(PAGES);

	ASSERT_NE(NULL, map);
	EXPECT_EQ(0, ksm_mergeable(map, PAGES));
	EXPECT_EQ(0, ksm_mergeable(map, PAGES));
	EXPECT_TRUE(is_mergeable(map));
	EXPECT_EQ(0, ksm_unmergeable(map, PAGES));
	EXPECT_EQ(0, ksm_unmergeable(map, PAGES));
	EXPECT_FALSE(is_mergeable(map));
}

TEST_F(registration, part_of_a_vma_splits_it_and_undoing_joins_it_again)
{
	char *map = ksm_map_fenced(3);

	ASSERT_NE(NULL, map);
	ASSERT_EQ(1, count_vmas(map, 3));
	EXPECT_EQ(0, ksm_mergeable(map + psize(), 1));
	EXPECT_EQ(3, count_vmas(map, 3));
	EXPECT_FALSE(is_mergeable(map));
	EXPECT_TRUE(is_mergeable(map + psize()));
	EXPECT_FALSE(is_mergeable(map + 2 * psize()));
	EXPECT_EQ(0, ksm_unmergeable(map + psize(), 1));
	EXPECT_EQ(1, count_vmas(map, 3));
}

TEST_F(registration, neighbours_that_are_both_registered_become_one_vma)
{
	char *map = ksm_map_fenced(3);

	ASSERT_NE(NULL, map);
	EXPECT_EQ(0, ksm_mergeable(map, 1));
	EXPECT_EQ(0, ksm_mergeable(map + 2 * psize(), 1));
	EXPECT_EQ(3, count_vmas(map, 3));
	EXPECT_EQ(0, ksm_mergeable(map + psize(), 1));
	EXPECT_EQ(1, count_vmas(map, 3));
	EXPECT_TRUE(is_mergeable(map));
}

TEST_F(registration, survives_mprotect_and_mremap)
{
	char *map = ksm_map_fenced(PAGES);
	char *moved;

	ASSERT_NE(NULL, map);
	ASSERT_EQ(0, ksm_mergeable(map, PAGES));
	ASSERT_EQ(0, mprotect(map, PAGES * psize(), PROT_READ));
	EXPECT_TRUE(is_mergeable(map));
	moved = mremap(map, PAGES * psize(), 2 * PAGES * psize(), MREMAP_MAYMOVE);
	ASSERT_NE(MAP_FAILED, moved);
	EXPECT_TRUE(is_mergeable(moved));
	EXPECT_TRUE(is_mergeable(moved + (2 * PAGES - 1) * psize()));
}

TEST_F(registration, madvise_is_inherited_by_fork)
{
	char *map = ksm_map_fenced(PAGES);
	int status;
	pid_t pid;

	ASSERT_NE(NULL, map);
	ASSERT_EQ(0, ksm_mergeable(map, PAGES));
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid)
		_exit(!(is_mergeable(map) && ksm_proc_says(getpid(), "ksm_mergeable: yes") &&
			ksm_get_merge_any() == 0));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
}

TEST_F(registration, works_for_unprivileged_processes)
{
	char *map = ksm_map_fenced(PAGES);

	ASSERT_NE(NULL, map);
	ASSERT_EQ(0, setresuid(65534, 65534, 65534));
	EXPECT_EQ(0, ksm_mergeable(map, PAGES));
	EXPECT_EQ(0, ksm_unmergeable(map, PAGES));
	EXPECT_EQ(0, ksm_set_merge_any(1));
	EXPECT_EQ(1, ksm_get_merge_any());
	EXPECT_EQ(0, ksm_set_merge_any(0));
}

TEST_F(registration, ends_with_the_process_though_ksmd_is_off)
{
	struct ksm_worker *worker = self->ksm.workers;

	ASSERT_TRUE(ksm_fork_worker(&self->ksm, 0, NULL, PAGES));
	ASSERT_EQ(0, ksm_ask(worker, ksm_job_fill, 1, 0, 0));
	ASSERT_EQ(0, ksm_ask(worker, ksm_job_advise, MADV_MERGEABLE, 0, 0));
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(0, ksm_set("run", "0"));
	EXPECT_EQ(PAGES - 1, ksm_get("pages_sharing"));
	ASSERT_TRUE(ksm_end_worker(worker));
	/* Who looks at /proc/PID may hold its memory for a moment longer. */
	EXPECT_TRUE(ksm_wait_until(ksm_get("pages_shared") == 0));
	EXPECT_EQ(0, ksm_get("pages_sharing"));
	EXPECT_TRUE(ksm_check());
}

TEST_F(registration, of_many_small_vmas_finds_each)
{
	const size_t count = 200;
	char *map = ksm_map_fenced(2 * count);

	ASSERT_NE(NULL, map);
	for (size_t i = 0; i < count; i++)
		ASSERT_EQ(0, ksm_mergeable(map + 2 * i * psize(), 1));
	EXPECT_EQ(2 * count, count_vmas(map, 2 * count));
	EXPECT_EQ(0, ksm_unmergeable(map, 2 * count));
	EXPECT_EQ(1, count_vmas(map, 2 * count));
}

TEST_HARNESS_MAIN
