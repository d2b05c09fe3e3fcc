# SPDX-License-Identifier: GPL-2.0-only
#
# Says which script makes what; the work is in scripts/.

MACHINE ?= x86

# Settings that may be given on the command line or in the environment.
export CONFIG J MEM CPUS ACCEL KSRC LTP DEPS SIZE ROUNDS MINUTES SEED

.PHONY: help demo check check-base check-builds check-clients check-ltp check-readme bench mutants torture series check-series deb kernel uml base-kernel base-uml debug-kernel debug-uml kcsan-kernel rt-kernel ksmstat shell clean distclean
# Each script uses all CPUs by itself.
.NOTPARALLEL:

help:
	@echo 'make demo         boot the kernel, run eight redis-servers, watch KSM save memory'
	@echo 'make check        all tests that do not take hours'
	@echo "make check-base   the base tree's own selftests, in its kernel and in ours"
	@echo 'make check-builds compile mm/ without what KSM uses, and for other architectures'
	@echo 'make check-clients  QEMU, node_exporter, stress-ng and ksmtuned work with it'
	@echo 'make check-ltp    LTP=DIR: tests of the Linux Test Project, in both kernels'
	@echo 'make check-readme  run all commands that README names, for hours'
	@echo 'make torture      MINUTES=5 SEED=1 MACHINE=x86: all at random, with KASAN and lockdep'
	@echo 'make mutants      put bugs in, one by one, and see whether the tests find them'
	@echo 'make series       build/series/*.patch, as one would send them; check-series tests them'
	@echo 'make deb          Debian packages of a kernel with this KSM (CONFIG=/boot/config-...)'
	@echo 'make bench        measure it against the base, 35 minutes; a quiet machine is best'
	@echo 'make kernel       build/x86_64/bzImage, Linux with this KSM for QEMU'
	@echo 'make uml          build/uml/linux, the same as a User-Mode Linux program'
	@echo 'make base-kernel  build/base-x86_64/bzImage, the untouched base, same configuration'
	@echo 'make base-uml     build/base-uml/linux, likewise'
	@echo 'make debug-kernel, make debug-uml  likewise with KASAN, lockdep and more'
	@echo 'make kcsan-kernel, make rt-kernel  likewise: data races; PREEMPT_RT'
	@echo 'make ksmstat      build/ksmstat/ksmstat, a tool that shows and controls any KSM'
	@echo 'make shell        boot it with a shell on this terminal (MACHINE=uml: in UML)'
	@echo 'make clean        remove what was built, keep the fetched base tree'
	@echo 'make distclean    remove all of build/'
	@echo
	@echo 'J=N          parallel jobs of a build (all CPUs)'
	@echo 'MEM=3G       memory of a virtual machine'
	@echo 'CPUS=N       its CPUs (QEMU 2, UML 1)'
	@echo 'ACCEL=kvm    QEMU accelerator, kvm or tcg (kvm where it is seen to work)'
	@echo 'KSRC=DIR     a Linux 7.3 source tree of your own as the base (never written to)'
	@echo 'LTP=DIR      a checkout of the Linux Test Project (never written to)'
	@echo 'SIZE=1G      what the benchmark registers (8G: see how the cost grows)'
	@echo 'ROUNDS=2     its rounds'
	@echo 'DEPS=skip    only name missing Debian packages, do not install them'
	@echo
	@echo 'Full logs are in build/log/.'

demo:
	@scripts/demo

check:
	@scripts/check

check-base:
	@scripts/check base

check-builds:
	@scripts/check builds

check-clients:
	@scripts/check-clients

check-ltp:
	@scripts/check ltp

check-readme:
	@scripts/check readme -a

bench:
	@scripts/bench

mutants:
	@scripts/mutants

torture:
	@scripts/torture $(MACHINE)

series:
	@scripts/series

check-series:
	@scripts/check-series

deb:
	@scripts/deb

kernel uml base-kernel base-uml debug-kernel debug-uml kcsan-kernel rt-kernel:
	@scripts/build $@

ksmstat:
	@scripts/deps tool
	@$(MAKE) --no-print-directory -C tools/mm/ksmstat O='$(CURDIR)/build/ksmstat'

shell:
	@scripts/shell $(MACHINE)

clean:
	@scripts/clean

distclean:
	@scripts/clean all
