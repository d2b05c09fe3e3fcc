// SPDX-License-Identifier: GPL-2.0-only
/* Random numbers, contents, and whether pages hold what they must; see ksm_torture.h. */

#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "ksm_torture.h"
#include "ksm_util.h"
#include "vm_util.h"

static size_t words(void)
{
	return psize() / sizeof(uint64_t);
}

/* ---- random numbers ---- */

/* Another number for each pair, which looks like none of them. */
uint64_t torture_mix(uint64_t a, uint64_t b)
{
	uint64_t x = a * 0x9e3779b97f4a7c15ULL + b + 0x632be59bd9b4e019ULL;

	for (unsigned int round = 0; round < 3; round++) {
		x ^= x >> 29;
		x *= 0xd6e8feb86659fd93ULL;
	}
	return x ^ (x >> 32);
}

uint64_t torture_random(uint64_t *state)
{
	*state += 0x9e3779b97f4a7c15ULL;
	return torture_mix(*state, 0);
}

unsigned long torture_below(uint64_t *state, unsigned long limit)
{
	return torture_random(state) % limit;
}

/* ---- contents ---- */

static size_t contents_offset(void)
{
	return (sizeof(*torture) + psize() - 1) / psize() * psize();
}

size_t torture_size(void)
{
	return torture_content_offset(TORTURE_CONTENTS);
}

off_t torture_content_offset(unsigned int content)
{
	return contents_offset() + (size_t)content * psize();
}

const char *torture_content(unsigned int content)
{
	return (const char *)torture + torture_content_offset(content);
}

/* Where it differs from others that are alike: in the last, first or some word. */
size_t torture_odd_word(unsigned int content)
{
	switch (content % TORTURE_VARIANTS) {
	case 1:
		return words() - 1;
	case 2:
		return 0;
	default:
		return content * 5 % words();
	}
}

static uint64_t plain_word(unsigned int content, size_t word)
{
	unsigned int base = content / TORTURE_VARIANTS;

	return base ? torture_mix(base, word) : 0;
}

void torture_make_contents(void)
{
	for (unsigned int content = 0; content < TORTURE_CONTENTS; content++) {
		uint64_t *page = (uint64_t *)torture_content(content);

		for (size_t i = 0; i < words(); i++)
			page[i] = plain_word(content, i);
		if (content % TORTURE_VARIANTS)
			page[torture_odd_word(content)] ^= 1ULL << content % 64;
	}
}

/* ---- the model ---- */

char *torture_at(const struct torture_self *self, size_t page)
{
	return self->map + page * psize();
}

void torture_put(struct torture_self *self, size_t page, unsigned int content)
{
	struct torture_page *model = &self->page[page];

	memmove(model->held + 1, model->held, sizeof(model->held) - 1);
	model->held[0] = model->content;
	model->content = content;
	model->flags &= ~PAGE_MAYBE;
}

/* The page is gone, and what comes in its place is another one. */
void torture_discard(struct torture_self *self, size_t page)
{
	torture_put(self, page, self->page[page].under);
	self->page[page].flags &= ~PAGE_PINNED;
}

struct torture_proc *torture_claim(void)
{
	for (size_t i = 0; i < torture->most; i++) {
		pid_t none = 0;

		if (__atomic_compare_exchange_n(&torture->proc[i].pid, &none, -1, false,
						__ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
			return &torture->proc[i];
	}
	return NULL;
}

/* ---- what was done ---- */

/**
 * torture_count - count an operation
 * @count: of its kind
 * @error: what became of it
 * @start: when it began, milliseconds
 */
void torture_count(struct torture_count *count, int error, uint64_t start)
{
	unsigned long took = ksm_now_millisecs() - start;
	unsigned long *which = &count->refused;

	if (!error)
		which = &count->done;
	else if (error == -ENOSYS || error == -EOPNOTSUPP || error == -ENODEV)
		which = &count->impossible;
	__atomic_add_fetch(which, 1, __ATOMIC_RELAXED);
	/* Of two at the same time one may be lost. */
	if (took > count->longest)
		count->longest = took;
}

void torture_list_count(const char *name, const struct torture_count *count)
{
	printf("# %-40s %8lu %8lu %8lu %8lu\n", name, count->done, count->refused,
	       count->impossible, count->longest);
}

/* ---- failure ---- */

static void stop_machine(void)
{
	ksm_write_text("/proc/sys/kernel/sysrq", "1");
	if (ksm_write_text("/proc/sysrq-trigger", "c"))
		perror("# sysrq-trigger");
}

/* One piece, as others may be writing, too. In a crash only the kernel's log is left. */
static void say(const char *text)
{
	if (write(STDERR_FILENO, text, strlen(text)) < 0 || torture->panic)
		ksm_write_text("/dev/kmsg", text);
}

/**
 * torture_fail - say what is wrong and stop everything
 * @format: as of printf(), without a line end
 */
void torture_fail(const char *format, ...)
{
	char text[1000] = "# WRONG: ";
	size_t length = strlen(text);
	static pid_t said;
	va_list args;

	/* What comes after may be wrong because of it. */
	if (said == getpid())
		return;
	said = getpid();
	va_start(args, format);
	vsnprintf(text + length, sizeof(text) - length - 2, format, args);
	va_end(args);
	strcat(text, "\n");
	say(text);
	if (torture->panic)
		stop_machine();
	__atomic_store_n(&torture->state, TORTURE_FAILED, __ATOMIC_SEQ_CST);
}

/* How many words of a page are those of a content. */
static size_t count_words(const char *found, unsigned int content)
{
	const uint64_t *a = (const uint64_t *)found;
	const uint64_t *b = (const uint64_t *)torture_content(content);
	size_t count = 0;

	for (size_t i = 0; i < words(); i++)
		count += a[i] == b[i];
	return count;
}

static unsigned int nearest_content(const char *found)
{
	unsigned int nearest = 0;

	for (unsigned int i = 1; i < TORTURE_CONTENTS; i++)
		if (count_words(found, i) > count_words(found, nearest))
			nearest = i;
	return nearest;
}

static void list_last(const struct torture_page *page, char *text, size_t size)
{
	size_t length = 0;

	text[0] = '\0';
	for (size_t i = 0; i < TORTURE_LAST && page->last[i] && length < size; i++)
		length += snprintf(text + length, size - length, " %s",
				   torture_ops[page->last[i] - 1].name);
	for (size_t i = 0; i < TORTURE_LAST && length < size; i++)
		length += snprintf(text + length, size - length, "%s %u",
				   i ? "" : "; it held before:", page->held[i]);
}

static void report(struct torture_self *self, size_t i, const char *found)
{
	const struct torture_proc *proc = self->proc;
	const struct torture_page *page = &self->page[i];
	const uint64_t *good = (const uint64_t *)torture_content(page->content);
	const uint64_t *bad = (const uint64_t *)found;
	uint64_t entry = ksm_pagemap(getpid(), torture_at(self, i));
	unsigned long pfn = ksm_pfn(getpid(), torture_at(self, i));
	unsigned int nearest = nearest_content(found);
	size_t word = words(), wrong = 0;
	char last[300];

	for (size_t j = words(); j-- > 0;) {
		if (good[j] == bad[j])
			continue;
		word = j;
		wrong++;
	}
	if (!wrong)
		word = 0;
	list_last(page, last, sizeof(last));
	torture_fail("page %zu of %zu at %p, word %zu, expected %016llx, found %016llx; "
		     "%zu words are wrong; expected content %u%s%u, found %zu words of %u; "
		     "seed %llu worker %u depth %u name %016llx pid %d operation %u (%s); "
		     "flags %x; pagemap %016llx pfn %lx kpageflags %llx; "
		     "last touched by %u:%s",
		     i, self->pages, torture_at(self, i), word, (unsigned long long)good[word],
		     (unsigned long long)bad[word], wrong, page->content,
		     page->flags & PAGE_MAYBE ? " or " : " over ", page->under,
		     count_words(found, nearest), nearest,
		     (unsigned long long)torture->seed, proc->worker,
		     proc->depth, (unsigned long long)proc->name, getpid(), proc->op,
		     torture_ops[proc->kind].name, page->flags, (unsigned long long)entry, pfn,
		     pfn ? (unsigned long long)ksm_page_flags(pfn) : 0ULL, page->when, last);
}

/* ---- checks ---- */

/* Which of the two may change from one look to the next, but only once. */
static bool holds(struct torture_page *page, const char *found)
{
	if (!memcmp(found, torture_content(page->content), psize()))
		return true;
	if (!(page->flags & PAGE_MAYBE) || memcmp(found, torture_content(page->under), psize()))
		return false;
	page->content = page->under;
	page->flags &= ~PAGE_MAYBE;
	return true;
}

/* A shut page is read as a debugger does, which fails in a group without memory. */
static bool look(struct torture_self *self, size_t page, char *found)
{
	char *at = torture_at(self, page);

	if (self->page[page].flags & PAGE_NO_READ)
		return pread(self->mem, found, psize(), (uintptr_t)at) == (ssize_t)psize();
	memcpy(found, at, psize());
	return true;
}

/**
 * torture_check_page - compare a page with its model
 * @self: the process
 * @page: which
 *
 * Return: false if it is wrong, which was reported.
 */
bool torture_check_page(struct torture_self *self, size_t page)
{
	bool may_change = self->page[page].flags & PAGE_MAYBE;
	char found[psize()];

	__atomic_add_fetch(&torture->checked, 1, __ATOMIC_RELAXED);
	if (!look(self, page, found) || holds(&self->page[page], found))
		return true;
	/* It may have gone away when half of it was read. */
	if (may_change && (!look(self, page, found) || holds(&self->page[page], found)))
		return true;
	report(self, page, found);
	return false;
}

bool torture_check(struct torture_self *self, size_t first, size_t count)
{
	for (size_t i = first; i < first + count; i++)
		if (!torture_check_page(self, i))
			return false;
	return true;
}
