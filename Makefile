# Commands for people; what they do is in scripts/. On a fresh Debian 12, as root: `make demo`, `make test`.

PREFIX ?= /usr/local
CARGO ?= cargo
# Where cargo puts what it builds.
BUILT = $(or $(CARGO_TARGET_DIR),target)/release/pystap

.PHONY: build demo demo-stap test bench overhead cost install uninstall package clean

build:
	$(CARGO) build --locked --release

# Installs what is missing, builds pystap and traces examples with this machine's own Python.
demo:
	scripts/demo

# The same through SystemTap, in a guest where that works whatever this machine's kernel allows.
demo-stap:
	scripts/demo-stap

# Installs what is missing and runs every check; ends with `N passed, N failed`.
test:
	scripts/test

# The tables that docs/ may quote.
bench:
	$(CARGO) bench --locked --bench replay
	$(CARGO) bench --locked --bench decode
	$(CARGO) bench --locked --bench analysis
	$(CARGO) bench --locked --bench pipeline

# What tracing costs the traced program here, compared with other tools; needs root.
overhead:
	benches/overhead

# What tracing through SystemTap costs the traced program, measured in the guest; needs root.
cost:
	benches/guest/cost

install: build
	install -D -m 755 $(BUILT) $(DESTDIR)$(PREFIX)/bin/pystap
	install -d $(DESTDIR)$(PREFIX)/share/man/man1
	$(BUILT) man --directory $(DESTDIR)$(PREFIX)/share/man/man1
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	$(BUILT) completions bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/pystap
	install -d $(DESTDIR)$(PREFIX)/share/zsh/site-functions
	$(BUILT) completions zsh >$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_pystap
	install -d $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	$(BUILT) completions fish >$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/pystap.fish

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/pystap
	rm -f $(DESTDIR)$(PREFIX)/share/man/man1/pystap.1 $(DESTDIR)$(PREFIX)/share/man/man1/pystap-*.1
	rm -f $(DESTDIR)$(PREFIX)/share/bash-completion/completions/pystap
	rm -f $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_pystap
	rm -f $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/pystap.fish

# A wheel, a .deb, an .rpm, crates and debug information, in target/packages.
package:
	scripts/package

# The guest's trees stay: they are outside the repository and take minutes to build (see tests/guest/build).
clean:
	$(CARGO) clean
	$(CARGO) clean --manifest-path fuzz/Cargo.toml
