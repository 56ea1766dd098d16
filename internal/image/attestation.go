package image

// Annotations that builders put on the attestations of an index.
const (
	annotationKind    = "vnd.docker.reference.type"
	annotationSubject = "vnd.docker.reference.digest"
)

// IsAttestation tells whether d, in an index, is what was attested of another of its manifests
// rather than an image.
func IsAttestation(d Descriptor) bool {
	return d.Annotations[annotationKind] == "attestation-manifest"
}

// AttestationSubject is the digest of the manifest that d attests; empty if it does not say.
func AttestationSubject(d Descriptor) Digest {
	subject := Digest(d.Annotations[annotationSubject])
	if CheckDigest(subject) != nil {
		return ""
	}
	return subject
}

// notForRunning tells what in an index is no platform's image.
func notForRunning(d Descriptor) bool {
	return IsAttestation(d) || d.Platform != nil && (d.Platform.OS == "unknown" || d.Platform.Architecture == "unknown")
}
