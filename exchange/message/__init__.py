"""The one model of a result that is sent, its closed tables of codes, and how it is built from a
differential.
"""
