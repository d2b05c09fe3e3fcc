// SPDX-License-Identifier: GPL-2.0-only
/* How a process lives and ends; see ksm_torture.h. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#include "ksm_torture.h"
#include "ksm_util.h"
#include "vm_util.h"

#define MAX_DEPTH	3

/* After each operation so many pages are checked; after each so many all of them. */
#define CHECKED_PAGES	8
#define CHECK_ALL	64

/* Operations of a life. */
#define LEAST_OPS	40
#define MOST_OPS	400

#define SYSLOG_READ_ALL	3	/* of klogctl() */

/* What numbers are drawn for besides operations. */
enum { FOR_LIFE = 1 << 30, FOR_AREA, FOR_COMPANION, FOR_EXEC };

/* A process has one area, so it is here where its other thread and signals find it. */
static struct torture_self self;

bool torture_runs(void)
{
	return __atomic_load_n(&torture->state, __ATOMIC_SEQ_CST) == TORTURE_RUNS;
}

/* ---- signals ---- */

static void caught(int number, siginfo_t *info, void *context)
{
	char *at = info->si_addr;
	bool inside = self.map && at >= self.map && at < self.map + self.pages * psize();
	char text[100];
	int length;

	/* All that is looked at below may be what is wrong. */
	length = snprintf(text, sizeof(text), "# process %d: signal %d (code %d) at %p\n",
			  getpid(), number, info->si_code, at);
	if (write(STDERR_FILENO, text, length) != length)
		_exit(1);
	torture_fail("signal %d (code %d) at %p, page %ld; "
		     "seed %llu worker %u name %016llx pid %d operation %u (%s)",
		     number, info->si_code, at, inside ? (long)((at - self.map) / psize()) : -1L,
		     (unsigned long long)torture->seed, self.proc->worker,
		     (unsigned long long)self.proc->name, getpid(), self.proc->op,
		     torture_ops[self.proc->kind].name);
	_exit(1);
}

static void catch_signals(void)
{
	static char stack[65536];
	const stack_t where = { .ss_sp = stack, .ss_size = sizeof(stack) };
	const struct sigaction action = {
		.sa_sigaction = caught,
		.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESETHAND,
	};

	sigaltstack(&where, NULL);
	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_DFL);
}

/* ---- the other thread ---- */

static void step_beside(uint64_t *random)
{
	size_t first = torture_below(random, self.pages);
	size_t count = 1 + torture_below(random, self.pages - first);
	char *at = torture_at(&self, first), found[psize()];
	struct iovec local = { found, psize() }, remote = { at, psize() };

	if (torture_below(random, 4))
		madvise(at, count * psize(), torture_neutral_advice(random));
	else if (process_vm_readv(getpid(), &local, 1, &remote, 1, 0) < 0)
		return;
}

/* One step for each operation, at the same time. It maps nothing. */
static void *live_beside(void *unused)
{
	uint64_t random = torture_mix(self.proc->name, FOR_COMPANION);
	uint32_t seen = 0;

	while (torture_runs()) {
		uint32_t op = __atomic_load_n(&self.proc->op, __ATOMIC_RELAXED);

		if (op != seen)
			step_beside(&random);
		else
			ksm_pause();
		seen = op;
	}
	return NULL;
}

/* ---- children ---- */

static struct torture_proc *proc_of(pid_t pid)
{
	for (size_t i = 0; i < TORTURE_PROCS; i++)
		if (torture->proc[i].pid == pid)
			return &torture->proc[i];
	return NULL;
}

/* The kernel's log may tell why, in lines that name the process. */
static void list_log(pid_t pid)
{
	static char text[1 << 18];
	int length = klogctl(SYSLOG_READ_ALL, text, sizeof(text) - 1);
	char name[32], *rest = text, *line;

	if (length < 0)
		return;
	text[length] = '\0';
	snprintf(name, sizeof(name), "[%d]", pid);
	while ((line = strsep(&rest, "\n")))
		if (strstr(line, name))
			ksft_print_msg("%s\n", line);
	fflush(stdout);
}

static void fail_of(pid_t pid, const struct torture_proc *proc, int status)
{
	unsigned long long seed = torture->seed;

	list_log(pid);
	if (!proc)
		torture_fail("process %d, no worker's, ended with status %x; seed %llu",
			     pid, status, seed);
	else
		torture_fail("process %d ended with %x%s; seed %llu worker %u operation %u (%s)",
			     pid, status, proc->may_die ? ", it may be killed" : "", seed,
			     proc->worker, proc->op, torture_ops[proc->kind].name);
}

/*
 * How a process ended: was that in order? One that nobody knows was forked to write to
 * its parent, who was killed meanwhile: it may have failed.
 */
static void judge(pid_t pid, int status)
{
	struct torture_proc *proc = proc_of(pid);
	bool killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
	bool good = proc ? !status || (killed && proc->may_die) : killed || WIFEXITED(status);

	if (killed)
		__atomic_add_fetch(&torture->killed, 1, __ATOMIC_RELAXED);
	if (torture_runs() && !good)
		fail_of(pid, proc, status);
	if (proc)
		__atomic_store_n(&proc->pid, 0, __ATOMIC_SEQ_CST);
}

void torture_reap(void)
{
	pid_t pid;
	int status;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		judge(pid, status);
}

/* A child has the parent's files, but they are of use to the parent only. */
static void forget_files(void)
{
	if (self.uffd >= 0)
		close(self.uffd);
	if (self.held[0] >= 0) {
		close(self.held[0]);
		close(self.held[1]);
	}
	if (self.ring.sqe)
		close(self.ring.fd);
	close(self.mem);
	memset(&self.ring, 0, sizeof(self.ring));
	self.pin_pages = 0;
	self.uffd = -1;
	self.held[0] = -1;
	for (size_t i = 0; i < self.pages; i++)
		self.page[i].flags &= ~PAGE_PINNED;
}

static __noreturn void live_on(void);

/**
 * torture_fork - a child goes on with a copy of the area and of the model
 * @parent: the caller
 *
 * Return: false if there are enough processes. Does not return in the child.
 */
bool torture_fork(struct torture_self *parent)
{
	struct torture_proc *proc = parent->proc->depth < MAX_DEPTH ? torture_claim() : NULL;
	pid_t pid;

	if (!proc)
		return false;
	proc->worker = parent->proc->worker;
	proc->name = torture_mix(parent->proc->name, parent->proc->op);
	proc->depth = parent->proc->depth + 1;
	proc->may_die = parent->proc->may_die;
	proc->op = 0;
	proc->pages = parent->pages;
	memcpy(proc->page, parent->page, sizeof(proc->page));
	pid = fork();
	if (pid) {
		__atomic_store_n(&proc->pid, pid > 0 ? pid : 0, __ATOMIC_SEQ_CST);
		return pid > 0;
	}
	proc->pid = getpid();
	self.proc = proc;
	self.page = proc->page;
	forget_files();
	live_on();
}

/* ---- operations ---- */

static unsigned int draw_kind(void)
{
	unsigned long sum = 0, at;
	unsigned int kind = 0;

	for (unsigned int i = 0; i < torture_nr_ops; i++)
		sum += torture_ops[i].weight;
	at = torture_below(&self.random, sum);
	while (at >= torture_ops[kind].weight)
		at -= torture_ops[kind++].weight;
	return kind;
}

/* Mostly few pages, seldom all or a whole huge page. */
static size_t draw_range(unsigned int max, size_t *first)
{
	static const unsigned int most[] = { 1, 1, 1, 8, 8, 32, 64, 64, 256, 512, TORTURE_PAGES };
	size_t limit = most[torture_below(&self.random, ARRAY_SIZE(most))], count;

	if (max && limit > max)
		limit = max;
	if (limit > self.pages)
		limit = self.pages;
	count = limit < 512 ? 1 + torture_below(&self.random, limit) : limit;
	*first = torture_below(&self.random, self.pages - count + 1);
	if (count >= 512)
		*first -= *first % 512;
	return count;
}

static void note(unsigned int kind, size_t first, size_t count)
{
	for (size_t i = first; i < first + count; i++) {
		struct torture_page *page = &self.page[i];

		memmove(page->last + 1, page->last, sizeof(page->last) - 1);
		page->last[0] = kind + 1;
		page->when = self.proc->op;
	}
}

static void check_some(size_t first, size_t count)
{
	bool good = true;

	if (self.proc->op % CHECK_ALL == CHECK_ALL - 1) {
		torture_check(&self, 0, self.pages);
		return;
	}
	for (unsigned int i = 0; i < CHECKED_PAGES && good; i++)
		good = torture_check_page(&self, first + torture_below(&self.random, count)) &&
		       torture_check_page(&self, torture_below(&self.random, self.pages));
}

/* What the test of the test does: nobody else will find out. */
static void spoil_page(void)
{
	size_t page = torture_below(&self.random, self.pages);
	size_t word = torture_below(&self.random, psize() / sizeof(uint64_t));

	if (torture_open_up(&self, page, 1))
		((volatile uint64_t *)torture_at(&self, page))[word] ^= 0x100;
}

static void one_operation(void)
{
	const struct torture_op *op;
	uint64_t start = ksm_now_millisecs();
	size_t first, count;
	unsigned int kind;
	int error;

	self.random = torture_mix(self.proc->name, self.proc->op);
	kind = draw_kind();
	op = &torture_ops[kind];
	count = draw_range(op->max, &first);
	self.proc->kind = kind;
	note(kind, first, count);
	error = op->job(&self, first, count, op->arg);
	torture_count(&torture->count[kind], error, start);
	__atomic_add_fetch(&torture->ops, 1, __ATOMIC_RELAXED);
	/* What is drawn from here on must not depend on what the operation met. */
	self.random = torture_mix(self.proc->name, ~(uint64_t)self.proc->op);
	if (torture->self_test && self.proc->op == LEAST_OPS / 2 && !self.proc->depth)
		spoil_page();
	if (!self.hopeless)
		check_some(first, count);
}

/* ---- a life ---- */

/* The program anew, in the same slot: all memory is gone but for KSM's setting. */
static void start_again(void)
{
	char file[16], slot[16];
	char *const argv[] = { "ksm_torture", "child", file, slot, NULL };

	self.proc->name = torture_mix(self.proc->name, FOR_EXEC);
	snprintf(file, sizeof(file), "%d", torture_file);
	snprintf(slot, sizeof(slot), "%d", (int)(self.proc - torture->proc));
	execv("/proc/self/exe", argv);
	torture_fail("exec: %s", strerror(errno));
}

static void end_life(uint64_t random)
{
	unsigned long how = torture_below(&random, 6);

	if (self.hopeless)
		__atomic_add_fetch(&torture->given_up, 1, __ATOMIC_RELAXED);
	else if (how < 3 || !torture_runs())
		torture_check(&self, 0, self.pages);
	if (!torture_runs())
		_exit(0);
	switch (how) {
	case 0:
		start_again();
		break;
	case 1:
		munmap(self.map, self.pages * psize());
		break;
	case 3:
		self.proc->may_die = true;
		kill(getpid(), SIGKILL);
		break;
	}
	_exit(0);
}

static void live_on(void)
{
	uint64_t random = torture_mix(self.proc->name, FOR_LIFE);
	uint32_t ops = LEAST_OPS + torture_below(&random, MOST_OPS - LEAST_OPS);
	pthread_t companion;

	self.mem = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	if (self.mem < 0)
		torture_fail("/proc/self/mem: %s", strerror(errno));
	__atomic_add_fetch(&torture->lives, 1, __ATOMIC_RELAXED);
	if (!torture_below(&random, 3) && pthread_create(&companion, NULL, live_beside, NULL))
		self.hopeless = true;
	for (self.proc->op = 0; self.proc->op < ops && torture_runs() && !self.hopeless;
	     self.proc->op++) {
		one_operation();
		torture_reap();
		if (kill(torture->main, 0))
			_exit(1);
	}
	end_life(torture_random(&random));
	_exit(0);
}

/* Huge pages fit into it, and as much lies behind it where nothing is. */
static bool make_area(void)
{
	size_t size = TORTURE_PAGES * psize(), huge = read_pmd_pagesize() ?: psize();
	char *map = mmap(NULL, 2 * size + huge, PROT_NONE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (map == MAP_FAILED)
		return false;
	self.map = (char *)(((uintptr_t)map + huge - 1) / huge * huge);
	self.spare = self.map + size;
	return !mprotect(self.map, self.pages * psize(), PROT_READ | PROT_WRITE);
}

/**
 * torture_live - live with a new area
 * @proc: the caller's slot
 */
void torture_live(struct torture_proc *proc)
{
	uint64_t random;

	catch_signals();
	self = (struct torture_self){ .proc = proc, .page = proc->page, .uffd = -1 };
	self.held[0] = -1;
	random = torture_mix(proc->name, FOR_AREA);
	self.pages = TORTURE_PAGES >> torture_below(&random, 3);
	memset(proc->page, 0, sizeof(proc->page));
	proc->pages = self.pages;
	proc->op = 0;
	if (!make_area()) {
		torture_fail("no memory for an area: %s", strerror(errno));
		_exit(1);
	}
	/* Some take part as a whole, as they would when started so. */
	if (torture_below(&random, 3))
		ksm_mergeable(self.map, self.pages);
	else
		ksm_set_merge_any(1);
	live_on();
}

/**
 * torture_start - start a life of a worker
 * @worker: its number
 * @life: and which life
 */
void torture_start(unsigned int worker, unsigned int life)
{
	struct torture_proc *proc = torture_claim();
	pid_t pid;

	if (!proc)
		return;
	proc->worker = worker;
	proc->name = torture_mix(torture_mix(torture->seed, worker), life);
	proc->depth = 0;
	proc->may_die = false;
	pid = fork();
	if (!pid) {
		proc->pid = getpid();
		torture_live(proc);
	}
	__atomic_store_n(&proc->pid, pid > 0 ? pid : 0, __ATOMIC_SEQ_CST);
}
