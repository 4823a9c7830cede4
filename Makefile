# Builds, runs, tests and installs; `make help` lists the targets. What takes more than a few lines is in scripts/.

.DEFAULT_GOAL := build
.DELETE_ON_ERROR:

# The six Lua versions.
VERSIONS := 5.1 5.2 5.3 5.4 jit 5.5
# The versions that are tested, LUAS="5.4 jit" for some only. Debian 12 has no Lua 5.5, so scripts/sid runs it.
LUAS := $(VERSIONS)
# The Lua to build for: one of the six, or an interpreter, which is asked.
LUA ?= $(shell scripts/find-lua)
ifeq ($(strip $(LUA)),)
$(error LUA is empty: give one of $(VERSIONS), or an interpreter, or leave LUA out)
endif
LUA_VERSION := $(or $(filter $(VERSIONS),$(LUA)),$(shell $(LUA) -e 'print(jit and "jit" or (_VERSION:match("%d%.%d")))'))
ifeq ($(filter $(VERSIONS),$(LUA_VERSION)),)
$(error LUA=$(LUA): expected one of $(VERSIONS), or an interpreter of that version)
endif
INTERPRETER := $(if $(filter $(VERSIONS),$(LUA)),lua$(LUA),$(LUA))
FEATURE := $(if $(filter jit,$(LUA_VERSION)),luajit,lua$(subst .,,$(LUA_VERSION)))
ABI := $(LUA_VERSION:jit=5.1)

# What is built in besides plain MQTT: what a small machine may do without.
WITH ?= tls websocket store
# The cargo profile of the module.
PROFILE ?= release
# The system to build for, as Rust calls it, if it is another one than this: x86_64-unknown-linux-musl. See scripts/cross.
TARGET ?=
CARGO := $(if $(TARGET),scripts/cross $(TARGET),cargo)
TARGET_DIR := $(if $(TARGET),target/cross/$(firstword $(subst ., ,$(TARGET))),$(or $(CARGO_TARGET_DIR),target))/$(PROFILE:dev=debug)
# The module's file name in cargo's directory, and here.
SYSTEM := $(or $(TARGET),$(shell uname -s))
IS_WINDOWS := $(or $(findstring -windows-,$(SYSTEM)),$(findstring MINGW,$(SYSTEM)),$(findstring MSYS,$(SYSTEM)))
IS_MACOS := $(or $(findstring -darwin,$(SYSTEM)),$(findstring Darwin,$(SYSTEM)))
BUILT := $(if $(IS_WINDOWS),mqtt_core.dll,libmqtt_core.$(if $(IS_MACOS),dylib,so))
MODULE := mqtt/core.$(if $(IS_WINDOWS),dll,so)
# Installs what a target needs; `SETUP=:` trusts that it is there.
SETUP ?= scripts/setup
# Rust of rustup before the machine's, which may be too old.
export PATH := $(HOME)/.cargo/bin:$(PATH)

PREFIX ?= /usr/local
INST_LUADIR ?= $(PREFIX)/share/lua/$(ABI)
INST_LIBDIR ?= $(PREFIX)/lib/lua/$(ABI)
INST_DOCDIR ?= $(PREFIX)/share/doc/luamqtt-native
# Installs a file, and makes its directory first, as GNU's install -D does: $(INSTALL) MODE FILE PLACE
INSTALL := install_to() { mkdir -p "$${3%/*}" && install -m "$$1" "$$2" "$$3"; }; install_to
# Two builds use the same file of cargo's directory, so one waits for the other; where there is no flock, only one is made at a time.
LOCKED := $(if $(shell command -v flock),flock Cargo.toml)
# Whether `make install` says how an interpreter finds the library that does not by itself.
HINT ?= yes
# How long each fuzz target runs, and the torture.
SECONDS ?= 20

TREE := build/$(if $(TARGET),$(TARGET)/)$(LUA_VERSION)
LUA_FILES = $(patsubst lua/%,%,$(shell find lua -name '*.lua'))
DOC_FILES = LICENSE README.md CHANGELOG.md $(shell find docs examples types -type f)
RUST_FILES := $(shell find src -name '*.rs') $(wildcard build.rs) Cargo.toml Cargo.lock

.PHONY: build
build: $(TREE)/$(MODULE) ## the module for one Lua, as the tree build/LUA
	@# What has not changed is left alone: programs may be running from the tree.
	@for file in $(LUA_FILES); do \
		if ! cmp -s lua/$$file $(TREE)/$$file; then $(INSTALL) 644 lua/$$file $(TREE)/$$file || exit; fi; \
	done
	@find $(TREE) -name '*.lua' | while read -r file; do [ -e "lua/$${file#$(TREE)/}" ] || rm "$$file"; done
	@echo 'luamqtt-native for $(if $(filter jit,$(LUA_VERSION)),LuaJIT,Lua $(LUA_VERSION)), as LUA=$(LUA) says, is in $(TREE)'

# Every Lua version's module has the same file name in cargo's directory: it is copied out before the next one is built.
# A cdylib alone gets link-time optimisation, an rlib beside it would switch that off.
$(TREE)/$(MODULE): $(RUST_FILES) $(TREE)/.profile
	@[ '$(SETUP)' = : ] || scripts/setup --check compile
	@mkdir -p $(@D)
	$(LOCKED) sh -c '$(CARGO) rustc --locked --lib --crate-type cdylib --profile $(PROFILE) \
		--no-default-features --features "$(FEATURE) $(WITH)" \
		&& install -m 644 $(TARGET_DIR)/$(BUILT) $@'

$(TREE)/.profile: FORCE
	@mkdir -p $(@D)
	@echo '$(PROFILE) $(WITH) $(RUSTFLAGS)' | cmp -s - $@ || echo '$(PROFILE) $(WITH) $(RUSTFLAGS)' > $@

.PHONY: build-all
build-all: ## the module for all tested Lua versions
	@for lua in $(LUAS); do $(MAKE) --no-print-directory build LUA=$$lua || exit; done

.PHONY: env
env: ## the two lines that let LUA find build/LUA: eval "$(make -s env LUA=5.4)"
	@echo 'export LUA_PATH="$(CURDIR)/$(TREE)/?.lua;$(CURDIR)/$(TREE)/?/init.lua;$${LUA_PATH:-;}"'
	@echo 'export LUA_CPATH="$(CURDIR)/$(TREE)/?$(suffix $(MODULE));$${LUA_CPATH:-;}"'

.PHONY: demo
demo: ## installs what is missing, builds, and runs examples/simple.lua against a broker of its own
	@$(SETUP) build broker lua-$(LUA_VERSION)
	@$(MAKE) --no-print-directory build LUA=$(LUA_VERSION)
	@scripts/with-broker scripts/lua $(LUA_VERSION) examples/simple.lua

.PHONY: test
test: ## installs what is missing, builds for all Lua versions, runs every test
	@$(SETUP) build broker test openresty browser cluster rock $(patsubst %,lua-%,$(filter-out 5.5,$(LUAS)))
	@scripts/test $(LUAS)

.PHONY: lint
lint: ## formatting, clippy for every feature, luacheck, the rockspecs
	@$(SETUP) build lint rock
	@scripts/lint

.PHONY: actionlint
actionlint: ## the workflow of the forges' machines
	@$(SETUP) actionlint
	@scripts/actionlint

.PHONY: audit
audit: ## sources, licences and, where that can be known, vulnerabilities of the crates
	@$(SETUP) build
	@scripts/audit

.PHONY: fuzz
fuzz: ## each fuzz target for SECONDS=20
	@$(SETUP) build fuzz
	@scripts/fuzz $(SECONDS)

# How much of it: these and those that scripts/soak names, from the environment or as `make soak CUTS=10`.
.PHONY: soak
soak: ## MESSAGES=50000 of QoS 1 and 2 each way, while there are CUTS=100 and RESTARTS=20; nothing may be lost
	@$(SETUP) build broker cluster soak lua-$(LUA_VERSION)
	@$(MAKE) --no-print-directory build LUA=$(LUA_VERSION)
	@scripts/soak $(LUA_VERSION)
	@BROKER=rabbitmq scripts/soak $(LUA_VERSION)

.PHONY: torture
torture: ## random programs against a broker that misbehaves, for SECONDS=20; SEED=1 for the same ones again
	@$(SETUP) build torture lua-$(LUA_VERSION)
	@$(MAKE) --no-print-directory build LUA=$(LUA_VERSION)
	@scripts/copas build/copas || echo 'torture: going on without Copas 4'
	@scripts/torture $(LUA_VERSION) $(SECONDS) $(SEED)

.PHONY: cluster
cluster: ## three RabbitMQ nodes, killed in turn while MESSAGES=5000 go through them; LUA=5.5: RabbitMQ 4 and MQTT 5.0
ifeq ($(LUA_VERSION),5.5)
	@$(SETUP) build
	@scripts/sid --install lua5.5 lua-socket make rabbitmq-server
	@$(MAKE) --no-print-directory build LUA=5.5
	@scripts/sid env MQTT=5.0 $(if $(MESSAGES),MESSAGES=$(MESSAGES)) scripts/cluster 5.5
else
	@$(SETUP) build cluster soak lua-$(LUA_VERSION)
	@$(MAKE) --no-print-directory build LUA=$(LUA_VERSION)
	@scripts/cluster $(LUA_VERSION)
endif

# TARGET/LUA: the systems with a C library or a processor of their own, on Luas of each kind.
CROSS ?= x86_64-unknown-linux-musl/5.4 x86_64-unknown-linux-musl/jit x86_64-pc-windows-gnu/5.4 \
	x86_64-unknown-linux-gnu.2.17/5.4 aarch64-unknown-linux-gnu.2.17/5.4 aarch64-unknown-linux-musl/5.4 \
	armv7-unknown-linux-musleabihf/5.1 mipsel-unknown-linux-musl/5.1 mips-unknown-linux-musl/5.1 \
	aarch64-apple-darwin/5.4 x86_64-apple-darwin/5.4
.PHONY: cross
cross: ## builds for other systems, CROSS="TARGET/LUA...", and runs what can be run here
	@for each in $(CROSS); do scripts/test-cross $${each%/*} $${each#*/} || failed=yes; done; [ ! "$$failed" ]

.PHONY: cross-check
cross-check: ## whether the sources compile for ARM and MIPS with 32 bits, and for macOS
	@scripts/test-cross --check armv7-unknown-linux-musleabihf mipsel-unknown-linux-musl aarch64-apple-darwin

ELSEWHERE ?= x86_64-unknown-linux-gnu.2.17/5.1 x86_64-unknown-linux-musl/5.4 x86_64-pc-windows-gnu/5.4 \
	aarch64-unknown-linux-gnu.2.17/5.4 aarch64-unknown-linux-musl/5.4 armv7-unknown-linux-musleabihf/5.1 \
	mipsel-unknown-linux-musl/5.1 mips-unknown-linux-musl/5.1
# Every rock that can be run here. Nothing here runs LuaJIT on 32 bits.
EVERYWHERE = $(filter-out armv7-%/jit mips%/jit,$(foreach target,$(filter-out %-darwin,$(DIST)),$(VERSIONS:%=$(target)/%)))
.PHONY: dist-elsewhere
dist-elsewhere: ## makes rocks for ELSEWHERE="TARGET/LUA..." or all, and installs them on Debian 11, with musl, under wine and QEMU
	@for each in $(ELSEWHERE:all=$(EVERYWHERE)); do scripts/test-dist --elsewhere $${each%/*} $${each#*/} || failed=yes; done; [ ! "$$failed" ]

.PHONY: deb
deb: ## builds the Debian package, has lintian look at it, installs it in the chroot and runs it on all of Debian's Luas
	@packaging/build-deb
	@packaging/test-deb

.PHONY: interop
interop: ## the table in docs/interop.md: what each of six brokers and this library do together
	@$(SETUP) build broker interop interop-more lua-$(LUA_VERSION)
	@$(MAKE) --no-print-directory build LUA=$(LUA_VERSION)
	@$(MAKE) --no-print-directory build LUA=5.5
	@REPORT=docs/interop.md scripts/interop $(LUA_VERSION) mosquitto sid/mosquitto rabbitmq sid/rabbitmq ejabberd aedes amqtt rumqttd

BENCH_LUAS = $(if $(filter file,$(origin LUA)),5.1 5.4 jit,$(LUA_VERSION))
.PHONY: bench
bench: ## the benchmarks, on some Luas unless LUA is given; PEER=DIR measures the luamqtt in DIR beside, ONLY=publish a part
	@$(SETUP) build broker $(BENCH_LUAS:%=lua-%) $(if $(PEER),peer)
	@PEER='$(PEER)' ONLY='$(ONLY)' ROUNDS='$(ROUNDS)' MS='$(MS)' WAITING='$(WAITING)' scripts/bench $(BENCH_LUAS)

.PHONY: instructions
instructions: ## counts the instructions of a message, fails if they have become many more
	@$(SETUP) build lua-5.4 instructions
	@scripts/instructions

.PHONY: docs
docs: ## the HTML of the Lua modules and the guides, in build/docs
	@$(SETUP) docs
	@scripts/docs

.PHONY: install
install: build ## to DESTDIR and PREFIX, or INST_LUADIR, INST_LIBDIR and INST_DOCDIR
	@for file in $(LUA_FILES); do $(INSTALL) 644 $(TREE)/$$file '$(DESTDIR)$(INST_LUADIR)'/$$file || exit; done
	@for file in $(DOC_FILES); do $(INSTALL) 644 $$file '$(DESTDIR)$(INST_DOCDIR)'/$$file || exit; done
	$(INSTALL) 755 $(TREE)/$(MODULE) '$(DESTDIR)$(INST_LIBDIR)/$(MODULE)'
	@[ '$(DESTDIR)' ] || [ -z '$(HINT)' ] || scripts/paths '$(INTERPRETER)' '$(INST_LUADIR)' '$(INST_LIBDIR)'

.PHONY: release
release: ## makes VERSION=1.2.3 of the library: writes the number where it stands, commits, tags; pushes nothing
	@scripts/release '$(VERSION)'

# The systems that packages are made for, each for all Lua versions.
DIST ?= x86_64-unknown-linux-gnu.2.17 aarch64-unknown-linux-gnu.2.17 \
	x86_64-unknown-linux-musl aarch64-unknown-linux-musl armv7-unknown-linux-musleabihf \
	mipsel-unknown-linux-musl mips-unknown-linux-musl \
	x86_64-pc-windows-gnu aarch64-apple-darwin x86_64-apple-darwin
.PHONY: dist
# The module tells nobody where it was built, so that it has the same bytes wherever that is.
dist: export RUSTFLAGS += --remap-path-prefix=$(CURDIR)=. --remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=/cargo
dist: build ## what is published, for one TARGET and LUA: a binary rock, a tarball, a bill of materials, in dist/TARGET/LUA
	@scripts/dist $(TREE) $(LUA_VERSION) '$(or $(TARGET),$(shell rustc -vV | sed -n 's/^host: //p'))' '$(FEATURE) $(WITH)'

.PHONY: dist-all
dist-all: ## the same for all Lua versions and each system in DIST="TARGET..."; host is this one
	@for target in $(DIST); do for lua in $(LUAS); do \
		$(MAKE) --no-print-directory dist TARGET=$${target#host} LUA=$$lua || exit; \
	done; done

.PHONY: reproduce
reproduce: ## compiles for TARGET and LUA in two directories: make dist has to give the same bytes
	@TARGET='$(TARGET)' scripts/test-dist --compile $(LUA_VERSION)

.PHONY: clean
clean: ## removes what was built
	rm -rf build dist
	cargo clean

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

.PHONY: FORCE
FORCE:
