// SPDX-License-Identifier: GPL-2.0-only
/* Processes that hold memory, and write to it while KSM is at work. */
#define _GNU_SOURCE
#include <err.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ksm.h"
#include "living.h"

#define WORDS		(PAGE_BYTES / sizeof(uint64_t))
#define LINE_WORDS	8
#define HUGE_BYTES	(HUGE_PAGES * PAGE_BYTES)
/* Between the turns of two processes, so that none waits for another one. */
#define STAGGER_NS	5000000ULL

struct turns *turns;

/* ---- contents ---- */

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
	return x ^ (x >> 31);
}

/* Differs from pages with other seeds all over, and costs an emulator little. */
static void fill(uint64_t *page, uint64_t seed)
{
	uint64_t line[LINE_WORDS];

	for (unsigned int i = 0; i < LINE_WORDS; i++)
		line[i] = mix(seed * LINE_WORDS + i);
	for (unsigned int i = 0; i < WORDS; i += LINE_WORDS)
		memcpy(page + i, line, sizeof(line));
}

/* Process 0 stands for what all have in common. */
static uint64_t seed_of(const struct part *part, unsigned long i, unsigned int who,
			unsigned int turn)
{
	unsigned long nr = part->first + i;
	bool common = part->contents == TWINS || (part->contents == HALF && nr % 2);

	if (turn && part->unlike)
		common = false;
	return ((uint64_t)(common ? 0 : who + 1) << 48) + ((uint64_t)turn << 24) + nr;
}

unsigned long part_pages(const struct part *part)
{
	return part->mib * MIB_PAGES;
}

static uint64_t *map_aligned(const struct part *part)
{
	size_t len = part->mib << 20;
	char *map = mmap(NULL, len + HUGE_BYTES, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (map == MAP_FAILED)
		err(1, "mmap");
	map += -(uintptr_t)map % HUGE_BYTES;
	if (madvise(map, len, part->folio_kib ? MADV_HUGEPAGE : MADV_NOHUGEPAGE))
		err(1, "madvise: folios");
	return (uint64_t *)map;
}

static unsigned long read_file(const char *path)
{
	FILE *file = fopen(path, "r");
	unsigned long number;

	if (!file || fscanf(file, "%lu", &number) != 1)
		err(1, "%s", path);
	fclose(file);
	return number;
}

/* All processes up to @who hold such a part. */
static void must_be_large(const struct part *part, unsigned int who)
{
	char path[128];

	snprintf(path, sizeof(path),
		 "/sys/kernel/mm/transparent_hugepage/hugepages-%ukB/stats/anon_fault_alloc",
		 part->folio_kib);
	if (read_file(path) * part->folio_kib < (part->mib << 10) * (who + 1))
		errx(1, "not all is in folios of %u KiB", part->folio_kib);
}

static uint64_t *make_part(const struct part *part, unsigned int who)
{
	uint64_t *map = map_aligned(part);
	unsigned long pages = part_pages(part);

	/* Half of a heap that is collected is empty. */
	if (part->change == COLLECT)
		pages /= 2;
	for (unsigned long i = 0; i < pages; i++)
		fill(map + i * WORDS, seed_of(part, i, who, 0));
	if (part->folio_kib)
		must_be_large(part, who);
	return map;
}

/* ---- change ---- */

static void refill(const struct part *part, uint64_t *map, unsigned int who, unsigned int turn)
{
	for (unsigned long i = part->one_in / 2; i < part_pages(part); i += part->one_in)
		fill(map + i * WORDS, seed_of(part, i, who, turn));
}

static void stamp(const struct part *part, uint64_t *map, uint64_t word)
{
	for (unsigned long i = part->one_in / 2; i < part_pages(part); i += part->one_in)
		map[i * WORDS + 1] = word;
}

static void refill_some(const struct part *part, uint64_t *map, unsigned int who, unsigned int turn)
{
	static double owed;
	static uint64_t state;
	unsigned long pages = part_pages(part);

	if (!state)
		state = part->unlike ? who + 1 : 1;
	for (owed += pages * (part->every_us / 1e6) / part->one_in; owed >= 1; owed--) {
		unsigned long i = (state = mix(state)) % pages;

		fill(map + i * WORDS, seed_of(part, i, who, turn));
	}
}

static void collect(const struct part *part, uint64_t *map, unsigned int turn)
{
	unsigned long half = part_pages(part) / 2;
	uint64_t *from = map + (turn % 2 ? 0 : half * WORDS);
	uint64_t *to = map + (turn % 2 ? half * WORDS : 0);

	for (unsigned long i = 0; i < half; i++)
		memcpy(to + (i + 1) % half * WORDS, from + i * WORDS, PAGE_BYTES);
	if (madvise(from, half * PAGE_BYTES, MADV_DONTNEED))
		err(1, "MADV_DONTNEED");
}

static void fork_child(const struct part *part, uint64_t *map, unsigned int turn)
{
	pid_t pid = fork();

	if (pid < 0)
		err(1, "fork");
	if (!pid) {
		stamp(part, map, mix(turn));
		_exit(0);
	}
	if (waitpid(pid, NULL, 0) != pid)
		err(1, "waitpid");
}

static void touch(const struct part *part, uint64_t *map)
{
	for (unsigned long i = 0; i < part_pages(part); i++)
		*(volatile uint64_t *)(map + i * WORDS);
}

static void swap(const struct part *part, uint64_t *map, unsigned int turn)
{
	if (turn % 2 == 0)
		touch(part, map);
	else if (madvise(map, part->mib << 20, MADV_PAGEOUT))
		err(1, "MADV_PAGEOUT");
}

static void change(const struct part *part, uint64_t *map, unsigned int who, unsigned int turn)
{
	switch (part->change) {
	case STILL:
		break;
	case REFILL:
		refill(part, map, who, turn);
		break;
	case STAMP:
		stamp(part, map, mix(turn));
		break;
	case HOT:
		stamp(part, map, mix(seed_of(part, turn, who, 0) + ((uint64_t)who << 32)));
		break;
	case RANDOM:
		refill_some(part, map, who, turn);
		break;
	case COLLECT:
		collect(part, map, turn);
		break;
	case FORK:
		fork_child(part, map, turn);
		break;
	case SWAP:
		swap(part, map, turn);
		break;
	}
}

void sleep_until(uint64_t ns)
{
	const struct timespec t = { .tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000 };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL))
		;
}

void note_turn(struct turns *turns, uint64_t ns)
{
	turns->count++;
	turns->sum_ns += ns;
	if (ns > turns->max_ns)
		turns->max_ns = ns;
}

/* At most one part of a process changes. */
static void __attribute__((noreturn))
live(const struct part *parts, uint64_t *const maps[], unsigned int who, uint64_t from)
{
	unsigned int n = parts[0].change == STILL ? 1 : 0;
	const struct part *part = &parts[n];
	uint64_t every = part->every_us * 1000ULL;

	for (unsigned int turn = 1; part->change != STILL; turn++) {
		uint64_t begun;

		sleep_until(from + turn * every + (who * STAGGER_NS) % every);
		begun = clock_ns();
		change(part, maps[n], who, turn);
		note_turn(&turns[who], clock_ns() - begun);
	}
	for (;;)
		pause();
}

/* ---- orders ---- */

static void move_part(const struct part *part, uint64_t **map)
{
	size_t len = part->mib << 20;
	uint64_t *to = map_aligned(part);

	if (mremap(*map, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, to) == MAP_FAILED)
		err(1, "mremap");
	*map = to;
}

static void obey(enum order order, const struct part *part, uint64_t **map)
{
	static const int advice[] = {
		[REGISTER] = MADV_MERGEABLE,
		[UNMERGE] = MADV_UNMERGEABLE,
	};

	if (order == MOVE)
		move_part(part, map);
	else if (madvise(*map, part->mib << 20, advice[order]))
		err(1, "madvise %d", advice[order]);
}

struct message {
	enum order order;
	uint64_t ns;
};

static void answer(int fd, uint64_t ns)
{
	if (write(fd, &ns, sizeof(ns)) != sizeof(ns))
		err(1, "pipe");
}

static void __attribute__((noreturn))
be_holder(const struct part *parts, unsigned int who, int orders, int answers)
{
	uint64_t *maps[MAX_PARTS];
	struct message m;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (unsigned int n = 0; n < MAX_PARTS; n++)
		maps[n] = parts[n].mib ? make_part(&parts[n], who) : NULL;
	answer(answers, 0);
	while (read(orders, &m, sizeof(m)) == sizeof(m)) {
		uint64_t begun = clock_ns();

		if (m.order == LIVE)
			live(parts, maps, who, m.ns);
		for (unsigned int n = 0; n < MAX_PARTS; n++)
			if (parts[n].mib)
				obey(m.order, &parts[n], &maps[n]);
		answer(answers, clock_ns() - begun);
	}
	_exit(0);
}

/* ---- seen from the program that measures ---- */

void memory_init(void)
{
	turns = mmap(NULL, MAX_HOLDERS * sizeof(*turns), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (turns == MAP_FAILED)
		err(1, "mmap");
}

static uint64_t hear(const struct holder *holder)
{
	uint64_t ns;

	if (read(holder->answers, &ns, sizeof(ns)) != sizeof(ns))
		errx(1, "a process that holds memory failed");
	return ns;
}

struct holder holder_start(const struct part *parts, unsigned int who)
{
	struct holder h;
	int orders[2], answers[2];

	if (pipe(orders) || pipe(answers))
		err(1, "pipe");
	h.pid = fork();
	if (h.pid < 0)
		err(1, "fork");
	if (!h.pid) {
		close(orders[1]);
		close(answers[0]);
		be_holder(parts, who, orders[0], answers[1]);
	}
	close(orders[0]);
	close(answers[1]);
	h.orders = orders[1];
	h.answers = answers[0];
	hear(&h);
	return h;
}

uint64_t holder_do(const struct holder *holder, enum order order)
{
	const struct message m = { .order = order, .ns = clock_ns() };

	if (write(holder->orders, &m, sizeof(m)) != sizeof(m))
		err(1, "pipe");
	return order == LIVE ? 0 : hear(holder);
}

uint64_t holder_kill(const struct holder *holder)
{
	uint64_t begun = clock_ns();

	if (kill(holder->pid, SIGKILL) || waitpid(holder->pid, NULL, 0) != holder->pid)
		err(1, "ending a process that holds memory");
	begun = clock_ns() - begun;
	close(holder->orders);
	close(holder->answers);
	return begun;
}
