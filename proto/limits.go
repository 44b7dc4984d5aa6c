package proto

// The limits of an envelope and its offer. A peer is trusted with WireGuard traffic, not with our memory or our network.
const (
	// MaxEnvelopeSize is the largest envelope in bytes that backends must carry and that is opened. The largest valid offer takes
	// less than half of it; the rest is for fields that newer peers may add.
	MaxEnvelopeSize = 16 << 10

	// SealOverhead is by how many bytes a sealed message is longer than its payload: an ephemeral key, an encrypted static key and a tag.
	SealOverhead = 32 + (32 + 16) + 16

	// MaxPayloadSize leaves space for the seal and for the envelope's other field with their protobuf headers (2+32 and 4 bytes).
	MaxPayloadSize = MaxEnvelopeSize - SealOverhead - 64

	// MaxCandidates bounds how many addresses a peer can make us send connectivity checks to. It is enough for a host with
	// several addresses in both families, each with reflexive and relayed ones.
	MaxCandidates = 30

	// MinUfrag, MaxUfrag, MinPwd and MaxPwd are the lengths of RFC 8839, section 5.4.
	MinUfrag = 4
	MaxUfrag = 256
	MinPwd   = 22
	MaxPwd   = 256

	// MaxFoundation is the length of RFC 8839, section 5.1.
	MaxFoundation = 32

	// MaxFeatures and MaxFeature bound the list of capabilities, and the length of each.
	MaxFeatures = 32
	MaxFeature  = 64
)

// The limits of what a rendezvous hands out.
const (
	// MaxICECredentialsSize is the largest message in bytes; the largest valid one takes less.
	MaxICECredentialsSize = 32 << 10

	// MaxICEServers bounds how many servers are asked in each gathering.
	MaxICEServers = 16

	// MaxHost is the length of a DNS name (RFC 1035, section 2.3.4).
	MaxHost = 253

	// MaxUsername is the length of STUN's USERNAME attribute (RFC 8489, section 14.3).
	MaxUsername = 508

	// MaxPassword is the same for the password, which has no limit of its own.
	MaxPassword = 508
)
