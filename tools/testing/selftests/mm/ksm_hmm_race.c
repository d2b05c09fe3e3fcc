// SPDX-License-Identifier: GPL-2.0-only
/*
 * A device that uses memory, and takes pages of it away and gives them back,
 * while ksmd merges as fast as it can: no write of device or CPU is lost, and
 * none is seen that was not made.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <sys/mman.h>
#include "ksm_device.h"
#include "ksm_util.h"

#define PAGES		32
#define SEED		1000
#define CONTENTS	4
#define EMPTY		CONTENTS	/* a discarded page holds this */

/* Enough has happened when merged pages were copied so many times. */
#define ENOUGH_COPIES	1000

/* ksmd runs; @twin has one page of each content. */
FIXTURE(busy_device)
{
	struct ksm_test ksm;
	struct ksm_device device;
	char *map;
	char *twin;
};

FIXTURE_VARIANT(busy_device)
{
	const char *use_zero_pages;
};

FIXTURE_VARIANT_ADD(busy_device, merging_empty_pages)	{ .use_zero_pages = "0" };
FIXTURE_VARIANT_ADD(busy_device, placing_zero_pages)	{ .use_zero_pages = "1" };

FIXTURE_SETUP(busy_device)
{
	const char *missing = ksm_missing() ?: device_missing(&self->device);

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	self->map = ksm_map_fenced(PAGES);
	self->twin = ksm_map_fenced(CONTENTS);
	ASSERT_TRUE(self->map && self->twin);
	ASSERT_EQ(0, ksm_mergeable(self->map, PAGES));
	ASSERT_EQ(0, ksm_mergeable(self->twin, CONTENTS));
	ksm_fill(self->twin, CONTENTS, SEED, 1);
	ASSERT_EQ(0, ksm_set("use_zero_pages", variant->use_zero_pages));
	ASSERT_EQ(0, ksm_set_number("sleep_millisecs", 0));
	ASSERT_EQ(0, ksm_set("run", "1"));
}

FIXTURE_TEARDOWN_PARENT(busy_device)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
	EXPECT_EQ(0, ksm_get("pages_shared"));
	EXPECT_EQ(0, ksm_get("pages_sharing"));
	EXPECT_EQ(0, ksm_get("ksm_zero_pages"));
}

static bool page_holds(const char *page, unsigned int content)
{
	if (content != EMPTY)
		return ksm_first_wrong(page, 1, SEED + content, 0) == -1;
	for (size_t i = 0; i < psize(); i++)
		if (page[i])
			return false;
	return true;
}

/* Somebody may hold the page, or it may have gone there before; else the bytes are right. */
static bool device_tries_to_take(struct ksm_device *device, char *page, unsigned int content)
{
	return !device_takes(device, page, device->buffer) ||
	       page_holds(device->buffer, content);
}

/* One step on a page; *@holds is what it must hold before, and then after it. */
static bool step_on(struct ksm_device *device, unsigned int what, char *page,
		    unsigned int content, unsigned char *holds)
{
	switch (what) {
	case 0:
		return page_holds(page, *holds);
	case 1:
		/* Not from its own memory; see device_reads(). */
		return device_has(device, page, 1) ||
		       (device_reads(device, page, 1) && page_holds(device->buffer, *holds));
	case 2:
		*holds = content;
		ksm_fill(page, 1, SEED + content, 0);
		return true;
	case 3:
		if (device_has(device, page, 1))
			return true;
		*holds = content;
		return device_fills(device, page, 1, SEED + content, 0);
	case 4:
	case 5:
		return device_tries_to_take(device, page, *holds);
	case 6:
		return device_gives_back(device, page, 1);
	default:
		*holds = EMPTY;
		return !madvise(page, psize(), MADV_DONTNEED);
	}
}

static bool all_hold(char *map, const unsigned char *holds)
{
	for (size_t i = 0; i < PAGES; i++)
		if (!page_holds(map + i * psize(), holds[i]))
			return false;
	return true;
}

TEST_F(busy_device, and_cpu_always_read_what_either_wrote_last)
{
	long before = ksm_vmstat("cow_ksm"), copies;
	struct ksm_wait wait = { 0 };
	unsigned char holds[PAGES] = { 0 };
	unsigned int random = 1;

	ksm_fill(self->map, PAGES, SEED, 0);
	while ((copies = ksm_vmstat("cow_ksm")) < before + ENOUGH_COPIES &&
	       ksm_may_wait(&wait, copies)) {
		for (unsigned int i = 0; i < 100; i++) {
			unsigned int what, where;

			random = random * 1103515245 + 12345;
			what = (random >> 8) % 8;
			where = (random >> 16) % PAGES;
			ASSERT_TRUE(step_on(&self->device, what, self->map + where * psize(),
					    (random >> 24) % CONTENTS, &holds[where]))
				TH_LOG("step %u on page %u", what, where);
		}
		if (random >> 30 == 0)
			ASSERT_EQ(0, ksm_unmergeable(self->map, PAGES / 2));
		ASSERT_EQ(0, ksm_mergeable(self->map, PAGES / 2));
		if (random >> 30 == 1)
			ASSERT_TRUE(all_hold(self->map, holds));
	}
	EXPECT_GE(ksm_vmstat("cow_ksm"), before + ENOUGH_COPIES);
	EXPECT_TRUE(all_hold(self->map, holds));
	EXPECT_EQ(-1, ksm_first_wrong(self->twin, CONTENTS, SEED, 1));
}

TEST_HARNESS_MAIN
