"""Write and read a result as FHIR R4B and as HL7 v2.5.1.

A document is what its reader makes the same result of.
"""
