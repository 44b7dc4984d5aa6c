package control

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// testSocket returns the name of a pipe that nothing else has.
func testSocket(t *testing.T) string {
	return fmt.Sprintf("%swice-go-test-%d-%s", pipes, os.Getpid(), strings.ReplaceAll(t.Name(), "/", "-"))
}
