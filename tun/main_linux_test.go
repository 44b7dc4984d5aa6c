package tun

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// childEnv makes the test binary play a part of its own instead of running tests: one that a test can kill, or run as
// another user.
const childEnv = "WICE_TUN_TEST_CHILD"

func TestMain(m *testing.M) {
	switch part := os.Getenv(childEnv); part {
	case "":
	case "configure-and-wait", "can-create", "wireguard", "open-file":
		if err := playPart(part); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	default:
		fmt.Fprintf(os.Stderr, "no part %q\n", part)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}
