// Package arch holds the tests of what the project has decided about itself and
// no compiler checks: which package may import which, what the binary must not
// link, and how files, comments and tests look. They read the source of every
// operating system, whatever the one they run on.
package arch
