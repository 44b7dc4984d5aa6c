package tun

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
)

// Table says which routing table the routes go to: TableAuto, TableOff, or the number of a table.
type Table uint32

const (
	// TableAuto puts routes in the main table, and a default route in a table of its own with policy routing.
	TableAuto Table = 0
	// TableOff adds no routes.
	TableOff Table = math.MaxUint32
)

// maxTable bounds table numbers to what fits an int on every machine.
const maxTable = math.MaxInt32

// ParseTable reads the value of wg-quick's Table: empty or "auto", "off", a number (also with 0x), or a name that the
// system's table of names has. Names apart, it is the same everywhere.
func ParseTable(s string) (Table, error) {
	switch strings.ToLower(s) {
	case "", "auto":
		return TableAuto, nil
	case "off":
		return TableOff, nil
	case "main":
		return 254, nil
	case "local":
		return 255, nil
	case "default":
		return 253, nil
	}
	if n, err := strconv.ParseUint(s, 0, 32); err == nil {
		if n == 0 || n > maxTable {
			return 0, fmt.Errorf("table %s is not within 1 and %d", s, maxTable)
		}
		return Table(n), nil
	}
	for _, file := range []string{"/etc/iproute2/rt_tables", "/usr/share/iproute2/rt_tables", "/usr/lib/iproute2/rt_tables"} {
		f, err := os.Open(file)
		if err != nil {
			continue
		}
		n, ok := findTable(f, s)
		_ = f.Close() // only read
		if ok {
			return n, nil
		}
	}
	return 0, fmt.Errorf("table %q is neither auto, off, a number nor a name that the system knows", s)
}

// String is the value that ParseTable reads.
func (t Table) String() string {
	switch t {
	case TableAuto:
		return "auto"
	case TableOff:
		return "off"
	}
	return strconv.FormatUint(uint64(t), 10)
}

// findTable looks up a name in the text of rt_tables: lines of a number and a name, and comments after #.
func findTable(r io.Reader, name string) (Table, bool) {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		line, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[1] != name {
			continue
		}
		if n, err := strconv.ParseUint(fields[0], 0, 32); err == nil && n > 0 && n <= maxTable {
			return Table(n), true
		}
	}
	return 0, false
}
