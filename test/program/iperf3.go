package program

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Iperf3 is what of the report of "iperf3 -c ... -J" matters.
type Iperf3 struct {
	Sent     Iperf3Sum `json:"sum_sent"`
	Received Iperf3Sum `json:"sum_received"`
	UDP      Iperf3Sum `json:"sum"` // with -u: both sides in one
}

// Iperf3Sum is the sum of all streams over the whole time.
type Iperf3Sum struct {
	Bytes         int64   `json:"bytes"`
	BitsPerSecond float64 `json:"bits_per_second"`
	Retransmits   int     `json:"retransmits"`  // of TCP, where sent
	Packets       int64   `json:"packets"`      // of UDP, sent
	LostPackets   int64   `json:"lost_packets"` // of UDP
	LostPercent   float64 `json:"lost_percent"` // of UDP
}

// ParseIperf3 reads the report. What iperf3 itself says is wrong is the error.
func ParseIperf3(text []byte) (Iperf3, error) {
	var report struct {
		Error string  `json:"error"`
		End   *Iperf3 `json:"end"`
	}
	if err := json.Unmarshal(text, &report); err != nil {
		return Iperf3{}, fmt.Errorf("read the report of iperf3: %w", err)
	}
	if report.Error != "" {
		return Iperf3{}, fmt.Errorf("iperf3: %s", report.Error)
	}
	if report.End == nil {
		return Iperf3{}, errors.New("read the report of iperf3: it has no end")
	}
	return *report.End, nil
}
