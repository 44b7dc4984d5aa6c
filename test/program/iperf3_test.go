package program

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Cut down from reports of iperf3 3.12.
const (
	tcpReport = `{"start": {"version": "iperf 3.12"}, "intervals": [], "end": {
		"streams": [{"sender": {"socket": 5}}],
		"sum_sent": {"start": 0, "end": 2.000092, "seconds": 2.000092, "bytes": 655097856, "bits_per_second": 2620270911.54, "retransmits": 17, "sender": true},
		"sum_received": {"start": 0, "end": 2.000499, "seconds": 2.000092, "bytes": 654573568, "bits_per_second": 2617641170.6, "sender": true},
		"cpu_utilization_percent": {"host_total": 36.7}}}`
	udpReport = `{"start": {}, "intervals": [], "end": {
		"sum": {"start": 0, "end": 2.000144, "seconds": 2.000144, "bytes": 49989600, "bits_per_second": 199943999.9, "jitter_ms": 0.0034, "lost_packets": 58, "packets": 41658, "lost_percent": 0.1392, "sender": true}}}`
	refused = `{"start": {"connected": []}, "intervals": [], "end": {}, "error": "unable to connect to server: Connection refused"}`
)

func TestParseIperf3(t *testing.T) {
	for text, want := range map[string]Iperf3{
		tcpReport: {
			Sent:     Iperf3Sum{Bytes: 655097856, BitsPerSecond: 2620270911.54, Retransmits: 17},
			Received: Iperf3Sum{Bytes: 654573568, BitsPerSecond: 2617641170.6},
		},
		udpReport: {UDP: Iperf3Sum{Bytes: 49989600, BitsPerSecond: 199943999.9, Packets: 41658, LostPackets: 58, LostPercent: 0.1392}},
	} {
		got, err := ParseIperf3([]byte(text))
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
	for text, want := range map[string]string{refused: "Connection refused", `{}`: "no end", `{"end"`: "unexpected end"} {
		if _, err := ParseIperf3([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error with %q", text, err, want)
		}
	}
}

func FuzzParseIperf3(f *testing.F) {
	for _, text := range []string{tcpReport, udpReport, refused, ""} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if got, err := ParseIperf3(text); err != nil && got != (Iperf3{}) {
			t.Errorf("got %+v with %v", got, err)
		}
	})
}

func TestTail(t *testing.T) {
	for text, want := range map[string]string{"": "", "a": "a", "a\nb\n": "a\nb", "a\nb\nc\n": "b\nc"} {
		if got := Tail(text, 2); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
