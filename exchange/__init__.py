"""Exchange results with a laboratory's systems, and images with other programs.

``message`` is the one model of a result, ``documents`` writes and reads it as FHIR and HL7 v2,
``sending`` delivers it.
"""
