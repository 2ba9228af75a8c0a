#!/bin/sh
# A RUSTC_WRAPPER (rustc and its arguments follow): builds pgrx-pg-sys as docs.rs does, with the bindings it ships.
# `--cfg docsrs` for all crates would turn on unstable features in some of them.
case " $* " in
    *" --crate-name pgrx_pg_sys "*) exec "$@" --cfg docsrs ;;
    *) exec "$@" ;;
esac
