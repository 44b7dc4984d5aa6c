// Package proto has the messages of the session signaling: their types, their wire form and the checks that everything from outside
// passes. It does no I/O.
//
// # Messages
//
// Two peers that have each other in their configuration negotiate a session with nothing but [Offer]s. Each side draws a
// [SessionID] and counts its offers with version 0, 1, 2 ...; rid echoes the id last accepted from the other side:
//
//	A                                                    B
//	  id=a rid=-  version=0 candidates=[]          -->
//	                                               <--     id=b rid=a version=0 candidates=[]
//	  id=a rid=b  version=1 candidates=[c1]        -->
//	                                               <--     id=b rid=a version=1 candidates=[d1]
//	  id=a rid=b  version=2 candidates=[c1 c2] eoc -->
//	                                               <--     id=b rid=a version=2 candidates=[d1] eoc
//
// Candidates are cumulative, so a lost or reordered offer costs nothing once a later one arrives. An offer with version 0, another
// id and a rid that is not the receiver's id starts the session anew. Only a rid proves that an offer is not a recording.
//
// # Bytes
//
// What a backend carries is a protobuf [Envelope] (signaling.proto):
//
//	Envelope { recipient: 32 bytes, sealed: bytes }
//
//	sealed = one message of Noise_X_25519_ChaChaPoly_BLAKE2s from the sender's WireGuard key to the recipient's:
//	         32 bytes    ephemeral public key
//	         48 bytes    the sender's public key, encrypted
//	         n+16 bytes  Payload, encrypted
//
//	Payload { timestamp: 12 bytes, offer: Offer }
//
//	timestamp = TAI64N: 8 bytes of seconds + 2^62 + 10, then 4 bytes of nanoseconds, both big-endian; like in WireGuard's own
//	            handshake it grows with each envelope of a sender.
//
// Unknown protobuf fields, enum values and features are ignored, so that a newer peer can talk to an older one: a candidate of an unknown
// type is left out of the offer.
//
// # Limits
//
// Each is a named constant. A message that breaks one is refused whole, with an error that names the field. A candidate which could
// never be used, or must not be (multicast, unspecified, broadcast, port 0), is left out and counted in [Offer.Unusable];
// the rest of the offer stands.
package proto
